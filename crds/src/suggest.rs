//! "Did you mean": the nearest of the allowed words.

/// The candidate that a misspelt word most likely stands for; none where nothing is near.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| {
        text.chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_lowercase)
            .collect()
    };
    let word: String = plain(word);
    candidates
        .into_iter()
        .map(|candidate| {
            let candidate_plain: String = plain(candidate);
            (strsim::jaro_winkler(&word, &candidate_plain), candidate)
        })
        .filter(|&(similarity, _)| similarity >= 0.8)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}

/// `` (did you mean `x`?)``, with its leading space, or nothing where no candidate is near.
#[must_use]
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates)
        .map(|candidate| format!(" (did you mean `{candidate}`?)"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_slip_meant() {
        let fields = [
            "batchSize",
            "inputLength",
            "outputLength",
            "gpus",
            "dtype",
            "model",
        ];
        assert_eq!(nearest("batchsize", fields), Some("batchSize"));
        assert_eq!(nearest("batch_size", fields), Some("batchSize"));
        assert_eq!(nearest("batchSizes", fields), Some("batchSize"));
        assert_eq!(nearest("gpu", fields), Some("gpus"));
        assert_eq!(nearest("models", fields), Some("model"));
        assert_eq!(nearest("frobnicate", fields), None);
        assert_eq!(did_you_mean("dtypes", fields), " (did you mean `dtype`?)");
        assert_eq!(did_you_mean("", fields), "");
    }
}
