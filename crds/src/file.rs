//! Reads resources from a file, and says everything that is wrong with it at once, each with its line.

mod partial;

use std::{collections::BTreeMap, fmt};

use serde_json::{Value, json};

use crate::{
    InferenceBenchmark,
    crd::{API_VERSION, KIND, schema},
    expectation::Expectation,
    node::{Kind, Node, Position},
    schema::{Finding, check, member},
    suggest::did_you_mean,
    validate::{Scope, validate},
    violation::{Found, Violation},
};

/// Something that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it stands; absent where the file as a whole is meant.
    pub at: Option<Position>,
    /// The field, as `spec.design.factors.batchSize[2]`; empty where no field is meant.
    pub path: String,
    /// The value and what is allowed.
    pub message: String,
}

/// All that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The file, as the caller named it.
    pub file: String,
    /// At least one, in the order of the file.
    pub problems: Vec<Problem>,
}

impl fmt::Display for FileError {
    /// One problem to a line, as `file:line:column: path: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            f.write_str(&self.file)?;
            if let Some(Position { line, column }) = problem.at {
                write!(f, ":{line}:{column}")?;
            }
            if !problem.path.is_empty() {
                write!(f, ": {}", problem.path)?;
            }
            write!(f, ": {}", problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for FileError {}

/// Reads the resources of a YAML or JSON file; a YAML file may hold several documents.
///
/// # Errors
/// Everything that keeps the text from being read as resources: bad YAML, another kind, unknown fields, wrong types.
/// A resource that reads well may still break a rule: [`load`] checks those too.
pub fn parse(text: &str, file: &str) -> Result<Vec<InferenceBenchmark>, FileError> {
    let mut problems = Vec::new();
    let mut resources = Vec::new();
    for node in documents(text, file)? {
        match typed(&node) {
            Ok(resource) => resources.push(resource),
            Err(found) => problems.extend(found),
        }
    }
    if problems.is_empty() {
        Ok(resources)
    } else {
        Err(error(file, problems))
    }
}

/// Reads the resources of a file and holds them to every rule; one that cannot be read, as far as it can be.
///
/// # Errors
/// All that [`parse`] and [`validate`] find, and names that stand twice.
pub fn load(text: &str, file: &str, scope: Scope) -> Result<Vec<InferenceBenchmark>, FileError> {
    let mut problems = Vec::new();
    let mut resources = Vec::new();
    let mut names: BTreeMap<(Option<String>, String), usize> = BTreeMap::new();
    for (index, node) in documents(text, file)?.iter().enumerate() {
        let (resource, violations) = match typed(node) {
            Ok(resource) => {
                let violations = validate(&resource, scope);
                (resource, violations)
            }
            Err(found) => {
                problems.extend(found);
                match partial::read(node) {
                    Some(part) => {
                        let violations = part.rules(scope);
                        (part.resource, violations)
                    }
                    None => continue,
                }
            }
        };
        let places = Places::of(node);
        problems.extend(
            violations
                .into_iter()
                .map(|violation| places.problem(violation)),
        );
        if let Some(name) = resource.metadata.name.clone() {
            let key = (resource.metadata.namespace.clone(), name.clone());
            if let Some(first) = names.insert(key, index) {
                let message = format!(
                    "{name:?} is the name of document {} of this file already",
                    first + 1
                );
                problems.push(places.problem(Violation {
                    path: "metadata.name".into(),
                    message,
                }));
            }
        }
        resources.push(resource);
    }
    if problems.is_empty() {
        Ok(resources)
    } else {
        Err(error(file, problems))
    }
}

/// Reads the expectations of a YAML or JSON file, those of a document `expectations: […]` or of a resource, and holds them
/// to every rule; they are of a sweep whose parameters have these names.
///
/// # Errors
/// Everything that is wrong with the file.
pub fn load_expectations<'a>(
    text: &str,
    file: &str,
    parameters: impl Iterator<Item = &'a str> + Clone,
) -> Result<Vec<Expectation>, FileError> {
    const PATH: &str = "expectations";
    let nodes = documents(text, file)?;
    if nodes.iter().any(|node| node.get("kind").is_some()) {
        let resources = load(text, file, Scope::Local)?;
        let all = resources.into_iter().map(|one| one.spec.expectations);
        return Ok(all.flatten().collect());
    }
    let mut all = Vec::new();
    let mut problems = Vec::new();
    for node in &nodes {
        let findings = check(node, &expectations_schema(), "");
        let places = Places::of(node);
        if findings.is_empty()
            && let Some(listed) = node.get(PATH)
            && let Ok(read) = serde_json::from_value::<Vec<Expectation>>(listed.to_json())
        {
            let mut found = Found::default();
            found.expectations(&read, parameters.clone(), PATH);
            problems.extend(found.all().into_iter().map(|one| places.problem(one)));
            all.extend(read);
        }
        problems.extend(findings.into_iter().map(|finding| Problem {
            at: finding.at,
            path: finding.path,
            message: finding.message,
        }));
    }
    if problems.is_empty() {
        Ok(all)
    } else {
        Err(error(file, problems))
    }
}

/// The schema of a document with nothing but expectations.
fn expectations_schema() -> Value {
    let listed = &schema()["properties"]["spec"]["properties"]["expectations"];
    json!({
        "type": "object",
        "required": ["expectations"],
        "properties": { "expectations": listed },
    })
}

/// The documents of a file, with the positions of their values; at least one.
fn documents(text: &str, file: &str) -> Result<Vec<Node>, FileError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let nodes: Vec<Node> = serde_saphyr::from_multiple_with_options(text, options)
        .map_err(|bad| error(file, vec![syntax_problem(&bad)]))?;
    if nodes.is_empty() {
        let message = format!("holds no document, and needs at least one of kind {KIND}");
        return Err(error(
            file,
            vec![Problem {
                at: None,
                path: String::new(),
                message,
            }],
        ));
    }
    Ok(nodes)
}

fn error(file: &str, mut problems: Vec<Problem>) -> FileError {
    problems.sort();
    FileError {
        file: file.to_owned(),
        problems,
    }
}

fn syntax_problem(bad: &serde_saphyr::Error) -> Problem {
    let at = bad.location().map(|location| Position {
        line: location.line(),
        column: location.column(),
    });
    let message = match bad.without_snippet() {
        serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{key:?} stands twice in the same map")
        }
        other => other.to_string(),
    };
    // The position stands in front already.
    let message = at.map_or(message.clone(), |Position { line, column }| {
        message.replace(&format!(" at line {line}, column {column}"), "")
    });
    Problem {
        at: at.filter(|at| at.line > 0),
        path: String::new(),
        message,
    }
}

/// A document as a resource, or everything that the schema does not allow in it where that keeps it from being one.
fn typed(node: &Node) -> Result<InferenceBenchmark, Vec<Problem>> {
    let problem = |path: &str, message: String| Problem {
        at: node.at,
        path: path.into(),
        message,
    };
    if !matches!(node.kind, Kind::Map(_)) {
        return Err(vec![problem(
            "",
            format!("{node} is not a resource: a map with apiVersion, kind, metadata, spec"),
        )]);
    }
    if let Some(other) = other_kind(node) {
        return Err(vec![other]);
    }
    let findings = check(node, schema(), "");
    if findings.iter().any(|finding| finding.misshapen) {
        let problem = |Finding {
                           path, message, at, ..
                       }| Problem { at, path, message };
        return Err(findings.into_iter().map(problem).collect());
    }
    serde_json::from_value(node.to_json()).map_err(|error| vec![problem("", error.to_string())])
}

/// A document that is of another kind is not held to this kind's schema: that would only confuse.
fn other_kind(node: &Node) -> Option<Problem> {
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        let Some(value) = node.get(field) else {
            let message = format!("is required: {expected}");
            return Some(Problem {
                at: node.at,
                path: field.into(),
                message,
            });
        };
        if value.kind != Kind::Text(expected.into()) {
            let meant = match &value.kind {
                Kind::Text(text) => did_you_mean(text, [expected]),
                _ => String::new(),
            };
            let message =
                format!("{value} is not {expected}, the only one that is read here{meant}");
            return Some(Problem {
                at: value.at,
                path: field.into(),
                message,
            });
        }
    }
    None
}

/// Where each field of a document stands.
struct Places(BTreeMap<String, Option<Position>>);

impl Places {
    fn of(node: &Node) -> Self {
        let mut places = Self(BTreeMap::new());
        places.add(node, String::new());
        places
    }

    fn add(&mut self, node: &Node, path: String) {
        match &node.kind {
            Kind::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.add(item, format!("{path}[{index}]"));
                }
            }
            Kind::Map(entries) => {
                for entry in entries {
                    self.add(&entry.value, member(&path, &entry.key));
                }
            }
            _ => {}
        }
        self.0.insert(path, node.at);
    }

    /// The violation, at its field or, where that is absent, at the nearest one around it.
    fn problem(&self, Violation { path, message }: Violation) -> Problem {
        let mut around = path.as_str();
        let at = loop {
            if let Some(at) = self.0.get(around) {
                break *at;
            }
            around = &around[..around.rfind(['.', '[']).unwrap_or(0)];
        };
        Problem { at, path, message }
    }
}

#[cfg(test)]
mod tests;
