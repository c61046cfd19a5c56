//! Label selectors and quantities of resources.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::NodeSelectorRequirement, apimachinery::pkg::apis::meta::v1::LabelSelector,
};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether a selector means an object with these labels; an empty one means all.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten();
    let rules = selector.match_expressions.iter().flatten();
    equal
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && rules.into_iter().all(|rule| {
            let values = rule.values.as_deref().unwrap_or_default();
            holds(&rule.operator, values, labels.get(&rule.key))
        })
}

/// Whether a node with these labels meets a requirement.
#[must_use]
pub fn meets(requirement: &NodeSelectorRequirement, labels: &Labels) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let found = labels.get(&requirement.key);
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "Gt" => number(found)
            .zip(number(values.first()))
            .is_some_and(|(a, b)| a > b),
        "Lt" => number(found)
            .zip(number(values.first()))
            .is_some_and(|(a, b)| a < b),
        other => holds(other, values, found),
    }
}

fn holds(operator: &str, values: &[String], found: Option<&String>) -> bool {
    let among = found.is_some_and(|found| values.contains(found));
    match operator {
        "In" => among,
        "NotIn" => !among,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        _ => false,
    }
}

/// A quantity in thousandths, such as 500 for `500m` and 1,024,000 for `1Ki`; none where it cannot be read.
#[must_use]
pub fn thousandths(quantity: &str) -> Option<i128> {
    const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    let end = quantity
        .find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+'))
        .unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(end);
    let number: f64 = number.parse().ok()?;
    let power = |suffixes: [&str; 6], base: f64| {
        let at = suffixes.iter().position(|known| *known == suffix)?;
        Some(base.powi(i32::try_from(at).ok()? + 1))
    };
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        _ => power(BINARY, 1_024.0)
            .or_else(|| power(DECIMAL, 1_000.0))
            .or_else(|| {
                let exponent = suffix.strip_prefix(['e', 'E'])?;
                Some(10_f64.powi(exponent.parse().ok()?))
            })?,
    };
    // Amounts that a node has are far from where this conversion would lose a digit that matters.
    Some((number * factor * 1_000.0).ceil() as i128)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;

    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, amount) in [
            ("1", 1_000),
            ("500m", 500),
            ("1.5", 1_500),
            ("1Gi", 1_073_741_824_000),
            ("2k", 2_000_000),
            ("1e3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("1n", 1),
        ] {
            assert_eq!(thousandths(text), Some(amount), "{text}");
        }
        for text in ["", "Gi", "1Xi", "one"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }

    #[test]
    fn selectors_mean_what_they_say() {
        let labels = Labels::from([("a".into(), "1".into())]);
        let rule = |operator: &str, key: &str, values: &[&str]| LabelSelector {
            match_labels: None,
            match_expressions: Some(vec![LabelSelectorRequirement {
                key: key.into(),
                operator: operator.into(),
                values: Some(values.iter().map(ToString::to_string).collect()),
            }]),
        };
        assert!(selects(&LabelSelector::default(), &labels));
        for (selector, means) in [
            (rule("In", "a", &["1", "2"]), true),
            (rule("In", "b", &["1"]), false),
            (rule("NotIn", "a", &["2"]), true),
            (rule("NotIn", "b", &["2"]), true),
            (rule("Exists", "a", &[]), true),
            (rule("DoesNotExist", "a", &[]), false),
            (rule("Near", "a", &["1"]), false),
        ] {
            assert_eq!(selects(&selector, &labels), means, "{selector:?}");
        }
        let equal = |value: &str| LabelSelector {
            match_labels: Some([("a".to_owned(), value.to_owned())].into()),
            match_expressions: None,
        };
        assert!(selects(&equal("1"), &labels) && !selects(&equal("2"), &labels));
    }
}
