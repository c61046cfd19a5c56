use proptest::prelude::*;

use super::*;
use crate::{
    file::load_expectations,
    validate::{Scope, notes, validate},
};

fn read(that: &str) -> Result<Statement, Wrong> {
    let expectation = Expectation {
        name: "a name".into(),
        that: that.into(),
        ..Expectation::default()
    };
    expectation.read(["maxNumSeqs"])
}

#[test]
fn what_can_be_said() {
    for that in [
        "pearson('batchSize', 'outputThroughput') > 0.7",
        "spearman(\"model\", 'ttltMs') >= -1",
        "0.5 < pearson('batchSize','ttftMs') && pearson('batchSize','ttftMs') < .7",
        "importance('batchSize', 'ttftMs', {'model': 'gpt2'}) > importance('gpus', 'ttftMs', {'model': 'gpt2'})",
        "!(share('gpus', 'perplexity') > 1e-2) || false",
        "logShare('maxNumSeqs', 'ttltMs') - 2 * logImportance('engine', 'ttltMs') / (1 + 3) != 0",
        "effect('gpus', 'gpuUtilMeanPct') < 1",
        "curve('ttltMs', 'batchSize', {'gpus': [1, 2,]}) == 'linear'",
        "'power' != curve('ttltMs', 'batchSize')",
        "curve('ttltMs', 'batchSize') in ['linear', 'constant']",
        "0 < exponent('outputThroughput', 'batchSize') // a power\n && exponent('outputThroughput', 'batchSize') < 1",
        "mean('outputThroughput', {'model': 'gpt2'}) / mean('outputThroughput', {'model': 'llama3'}) > 2",
        "best('ttftMs') < 100",
        "bestLevel('gpus', 'outputThroughput', {'model': 'gpt2'}) == 1",
        "bestLevel('maxNumSeqs', 'outputThroughput', {'maxNumSeqs': [16, 'auto', true]}) in [16]",
        "true",
    ] {
        assert!(read(that).is_ok(), "{that}: {:?}", read(that));
    }
}

/// Each with what is said of it.
#[test]
fn what_cannot_be_said() {
    let wrong = [
        "",
        "pearson('batchSize', 'outputThroughput') > ",
        "pearson('batchSize' 'outputThroughput') > 0.7",
        "pearson('batchSize', 'outputThroughput') = 0.7",
        "pearson('batchSize', 'outputThroughput') > 70%",
        "pearson(batchSize, 'outputThroughput') > 0.7",
        "persons('batchSize', 'outputThroughput') > 0.7",
        "pearson('batchsize', 'outputThroughput') > 0.7",
        "pearson('batchSize', 'output_throughput') > 0.7",
        "pearson('outputThroughput', 'batchSize') > 0.7",
        "curve('batchSize', 'outputThroughput') == 'linear'",
        "curve('outputThroughput', 'batchSize') == 'liner'",
        "curve('outputThroughput', 'batchSize') > 0.5",
        "effect('model', 'ttltMs') > 1",
        "pearson('engine', 'ttltMs') > 1",
        "mean('outputThroughput')",
        "bestLevel('gpus', 'outputThroughput')",
        "bestLevel('gpus', 'outputThroughput') in 2",
        "mean('outputThroughput') in [2]",
        "mean() > 1",
        "mean('ttftMs', {'gpus': 1}, 2) > 1",
        "mean('ttftMs', 'gpus') > 1",
        "mean('ttftMs', {'gpus': 1, 'gpus': 2}) > 1",
        "mean('ttftMs', {'gpus': mean('ttftMs')}) > 1",
        "0.5 < mean('ttftMs') < 0.7",
        "mean('ttftMs') > 1 ? true : false",
        "mean('ttftMs').low > 1",
        "mean('ttftMs') > 1 & true",
        "!mean('ttftMs')",
        "'a' == 'b'",
        "1 + 'a' > 2",
        "99999999999999999999 > 1",
        "1. > 1",
        "'open",
        "'\\q' == curve('ttftMs', 'gpus')",
        "mean('ttftMs') > 1 true",
        &format!("{}true{}", "(".repeat(25), ")".repeat(25)),
    ]
    .map(|that| {
        let wrong = read(that).expect_err(that).to_string();
        format!("{that}\n    {wrong}\n")
    });
    insta::assert_snapshot!(wrong.concat());
}

#[test]
fn brackets_bind_as_in_cel() {
    let same = |a: &str, b: &str| {
        let plain = |that: &str| {
            let mut text = format!("{:?}", read(that).expect(that));
            // All but the texts, which have the brackets in them.
            while let Some(at) = text.find("text: \"") {
                let end = text[at + 7..]
                    .find('"')
                    .map_or(text.len(), |end| at + 8 + end);
                text.replace_range(at..end, "");
            }
            text
        };
        assert_eq!(plain(a), plain(b), "{a}");
    };
    same("true || false && false", "true || (false && false)");
    same("1 - 2 - 3 < 4", "((1 - 2) - 3) < 4");
    same("1 + 2 * 3 > 4 && true", "((1 + (2 * 3)) > 4) && true");
    same("!true || true", "(!true) || true");
    same("-1 * 2 > 3", "((-1) * 2) > 3");
}

/// Every spec that is wrong is told so, at its path, wherever it is held to the rules.
#[test]
fn a_bad_expression_is_a_violation_at_its_path() {
    let mut resource = crate::InferenceBenchmark::new(
        "x",
        serde_json::from_value(serde_json::json!({
            "design": { "factors": {
                "model": [{ "name": "gpt2", "source": { "random": { "preset": "gpt2" } } }],
                "batchSize": [1, 2],
                "gpus": [0],
                "parameters": [{ "name": "threads", "levels": [1, 2], "env": "THREADS" }],
            } },
            "expectations": [
                { "name": "fine", "that": "effect('threads', 'ttltMs') < 1", "reference": "0.5" },
                { "name": "idle", "that": "effect('inputLength', 'ttltMs') < 1 && mean('ttftMs', {'batchSize': 3}) < 1" },
                { "name": "bad", "that": "effect('thread', 'ttltMs') < 1" },
                { "name": "odd", "that": "best('ttftMs', {'batchSize': 3}) < 1 || best('ttftMs', {'batchSize': 3}) > 2" },
            ],
        }))
        .expect("a spec"),
    );
    let found = validate(&resource, Scope::Local);
    let [only] = found.try_into().expect("one");
    assert_eq!(only.path, "spec.expectations[2].that");
    assert!(
        only.message
            .starts_with("at character 8: \"thread\" is no factor: engine, model, batchSize")
            && only.message.ends_with("threads (did you mean `threads`?)"),
        "{}",
        only.message
    );
    assert_eq!(
        notes(&resource.spec),
        [
            "spec.expectations[1]: cannot be judged in full, as inputLength does not vary",
            "spec.expectations[1], [3]: cannot be judged in full, as 3 is not a level of batchSize: 1, 2",
        ]
    );
    resource.spec.expectations[1].name = "fine".into();
    resource.spec.expectations[2].that = "true".into();
    let found = validate(&resource, Scope::Cluster);
    assert!(
        found
            .iter()
            .any(|one| one.path == "spec.expectations[1].name"
                && one.message.contains("is listed already")),
        "{found:?}"
    );
}

#[test]
fn a_file_of_expectations_says_what_is_wrong_with_it() {
    let load = |text: &str| load_expectations(text, "e.yaml", std::iter::empty());
    let read = load("expectations:\n- {name: a, that: \"true\"}\n").expect("fine");
    assert_eq!(read[0].name, "a");
    let all = [
        "expectation: []\n",
        "- {name: a, that: \"true\"}\n",
        "expectations:\n- {name: a}\n- {name: b, that: \"mean('ttft') > 1\"}\n",
        "expectations:\n- {name: b, that: \"mean('ttft') > 1\"}\n- {name: b, that: \"1\"}\n",
        "expectations:\n- {name: b, that: \"mean('ttft') > 1\"}\n- {name: c, that: \"1\", study: 3}\n",
        "kind: InferenceBenchmark\n",
    ]
    .map(|text| format!("{text}{}\n\n", load(text).expect_err(text)));
    insta::assert_snapshot!(all.concat());
}

/// Expressions as the `cel` crate and this parser both may read them, by precedence.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[0-9]{1,3}(\\.[0-9]{1,3})?(e[0-9])?",
        "'[a-z ]{0,4}'",
        Just("true".to_owned()),
        Just("mean('ttftMs')".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = prop::sample::select(vec![
            "||", "&&", "<", "<=", ">", ">=", "==", "!=", " in ", "+", "-", "*", "/",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone())
                .prop_map(|(a, operator, b)| format!("{a} {operator} {b}")),
            inner.clone().prop_map(|a| format!("({a})")),
            inner.clone().prop_map(|a| format!("!({a})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("f({a}, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{{'k': {a}, 'l': {b}}}")),
        ]
    })
}

/// A tree of this parser as a text with all brackets.
fn ours(node: &parse::Node) -> String {
    use parse::Kind;
    match &node.kind {
        Kind::Number(number) => format!("{number}"),
        Kind::Text(text) => format!("{text:?}"),
        Kind::Boolean(value) => format!("{value}"),
        Kind::List(items) => format!("{:?}", items.iter().map(ours).collect::<Vec<_>>()),
        Kind::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| (ours(key), ours(value)));
            format!("{:?}", entries.collect::<Vec<_>>())
        }
        Kind::Call(name, arguments) => called(name, arguments.iter().map(ours)),
        Kind::Unary(sign, of) => called(&format!("{sign}_"), [ours(of)]),
        Kind::Binary("in", a, b) => called("@in", [ours(a), ours(b)]),
        Kind::Binary(operator, a, b) => called(&format!("_{operator}_"), [ours(a), ours(b)]),
    }
}

/// The same of a tree of the `cel` crate.
fn theirs(node: &cel::IdedExpr) -> String {
    use cel::common::ast::{EntryExpr, Expr, LiteralValue};
    match &node.expr {
        Expr::Literal(LiteralValue::Int(number)) => format!("{}", *number.inner() as f64),
        Expr::Literal(LiteralValue::Double(number)) => format!("{}", number.inner()),
        Expr::Literal(LiteralValue::String(text)) => format!("{:?}", text.inner()),
        Expr::Literal(LiteralValue::Boolean(value)) => format!("{}", value.inner()),
        Expr::List(list) => format!("{:?}", list.elements.iter().map(theirs).collect::<Vec<_>>()),
        Expr::Map(map) => {
            let entries = map.entries.iter().map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => (theirs(&entry.key), theirs(&entry.value)),
                EntryExpr::StructField(field) => (field.field.clone(), theirs(&field.value)),
            });
            format!("{:?}", entries.collect::<Vec<_>>())
        }
        Expr::Call(call) => called(&call.func_name, call.args.iter().map(theirs)),
        other => format!("{other:?}"),
    }
}

/// A call; chains of `&&` and `||`, which group freely, without brackets in them.
fn called(name: &str, arguments: impl IntoIterator<Item = String>) -> String {
    let arguments: Vec<String> = arguments.into_iter().collect();
    let chain = matches!(name, "_&&_" | "_||_");
    let start = format!("{name}<");
    let inner: Vec<&str> = arguments
        .iter()
        .map(|argument| {
            let of_same = argument.strip_prefix(&start).filter(|_| chain);
            of_same
                .and_then(|inner| inner.strip_suffix('>'))
                .unwrap_or(argument)
        })
        .collect();
    format!("{start}{}>", inner.join(" , "))
}

proptest! {
    /// Every text that is read here is CEL, and means the same.
    #[test]
    fn the_cel_crate_reads_the_same(text in expression()) {
        let node = parse::parse(&text).expect(&text);
        let cel = cel::parser::Parser::new().parse(&text);
        let cel = cel.map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        prop_assert_eq!(ours(&node), theirs(&cel), "{}", text);
    }

    /// Every text gets an answer.
    #[test]
    fn nothing_breaks_the_parser(text in "\\PC{0,60}") {
        let _ = read(&text);
    }

    #[test]
    fn nothing_like_an_expression_breaks_the_parser(
        parts in prop::collection::vec(prop::sample::select(vec![
            "(", ")", "[", "]", "{", "}", ",", ":", "'a'", "'gpus'", "'ttftMs'", "mean", "share", "1", ".5", "!", "-",
            "+", "<", "==", "in", "&&", "||", "true", " ", "//", "\n", "é",
        ]), 0..40),
    ) {
        let text = parts.concat();
        if let Err(wrong) = read(&text) {
            prop_assert!(wrong.at <= text.chars().count() + 1);
        }
    }
}
