//! Where things lie in a sweep's folder in the store: the records of its trials, and the documents that a collection
//! makes of them.

/// The folder of the records.
pub const TRIALS: &str = "trials";
/// The manifest: what the collection has made of which records; written last.
pub const MANIFEST: &str = "manifest.json";
/// The design, so that the files alone say what was asked.
pub const DESIGN: &str = "design.json";
/// The summary of the sweep.
pub const SUMMARY: &str = "summary.json";
/// The numbers behind the report.
pub const ANALYSIS: &str = "analysis.json";
/// The report.
pub const REPORT: &str = "report.html";

/// Where the record of a trial lies, by its key.
#[must_use]
pub fn record_path(key: &str) -> String {
    format!("{TRIALS}/{key}.json")
}

/// Where all that a server wrote during a trial lies, where it is kept.
#[must_use]
pub fn log_path(key: &str) -> String {
    format!("logs/{key}.log")
}

/// The key in the name of a file, where it is named as a record is.
#[must_use]
pub fn record_key(path: &str) -> Option<&str> {
    path.strip_prefix(TRIALS)?
        .strip_prefix('/')?
        .strip_suffix(".json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_lie_where_they_always_have() {
        assert_eq!(record_path("0af3"), "trials/0af3.json");
        assert_eq!(record_key("trials/0af3.json"), Some("0af3"));
        for other in ["trials/0af3.json.corrupt-0", "trials0af3.json", "0af3.json"] {
            assert_eq!(record_key(other), None, "{other}");
        }
    }
}
