//! Completion indexes of an Indexed Job: those of pods, and `status.completedIndexes`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;

/// Annotation and label of a pod in an Indexed Job.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// The completion index of a pod.
pub fn index(pod: &Pod) -> Option<i32> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(INDEX)?.parse().ok()
}

/// Reads `status.completedIndexes`, such as `0-3,5`.
pub fn read_indexes(text: &str) -> BTreeSet<i32> {
    text.split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<i32>().ok()?..=last.parse().ok()?)
        })
        .flatten()
        .collect()
}

/// Writes `status.completedIndexes`.
pub fn write_indexes(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for &index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => runs.push((index, index)),
        }
    }
    let runs = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        // Two in a row are not a range to Kubernetes.
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    runs.collect::<Vec<_>>().join(",")
}
