//! Puts together what the pods of a collection hand over in parts, and believes nothing unchecked: a status that the
//! API server refuses would never be written.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use inferbench_crds::{
    contract::{Chunk, Collected},
    limits, sha256_hex,
    status::{Point, Summary},
};
use miniz_oxide::inflate::decompress_to_vec_zlib_with_limit;

/// The most that a collection may unfold to: the summary, and a line for each trial that was recovered.
const MOST_BYTES: usize = 2 << 20;

/// What the termination messages of a collection's pods say together, by any order and with repetitions.
///
/// # Errors
/// Where a part is missing or damaged, or what they say has no place in a status.
pub fn assemble<'a>(reports: impl Iterator<Item = &'a str>) -> Result<Collected, String> {
    let mut parts: Vec<Option<Vec<u8>>> = Vec::new();
    let mut whole = String::new();
    for report in reports.filter(|report| !report.is_empty()) {
        let chunk: Chunk = serde_json::from_str(report)
            .map_err(|error| format!("a pod's termination message is no chunk: {error}"))?;
        if chunk.parts == 0 {
            continue;
        }
        if chunk.parts > 1_024 || chunk.part >= chunk.parts {
            return Err(format!(
                "there is no part {} of {}",
                chunk.part, chunk.parts
            ));
        }
        if whole.is_empty() {
            whole = chunk.sha256.clone();
            parts = vec![None; chunk.parts as usize];
        }
        if chunk.sha256 != whole || chunk.parts as usize != parts.len() {
            return Err("the parts belong to different collections".into());
        }
        let data = STANDARD
            .decode(&chunk.data)
            .map_err(|error| format!("part {} is not base64: {error}", chunk.part))?;
        if let Some(part) = parts.get_mut(chunk.part as usize) {
            *part = Some(data);
        }
    }
    if parts.is_empty() {
        return Err("no pod has handed over anything".into());
    }
    let count = parts.len();
    let mut stream = Vec::new();
    for (number, part) in parts.into_iter().enumerate() {
        stream.extend(part.ok_or_else(|| format!("part {number} of {count} is missing"))?);
    }
    if sha256_hex(&stream) != whole {
        return Err("the parts do not have the hash that they name".into());
    }
    let json = decompress_to_vec_zlib_with_limit(&stream, MOST_BYTES)
        .map_err(|error| format!("the parts are no zlib stream: {error}"))?;
    let collected: Collected = serde_json::from_slice(&json)
        .map_err(|error| format!("the parts are no summary: {error}"))?;
    check(&collected)?;
    Ok(collected)
}

/// Whether a status has room for it, as the schema of the resource says.
fn check(collected: &Collected) -> Result<(), String> {
    let results = &collected.results;
    let summary = &collected.summary;
    let bytes = serde_json::to_vec(summary).map_or(usize::MAX, |json| json.len());
    if bytes > limits::SUMMARY_BYTES {
        return Err(format!(
            "the summary has {bytes} bytes, and at most {} are allowed",
            limits::SUMMARY_BYTES
        ));
    }
    let fits = |text: &str, most: u32| text.chars().count() <= most as usize;
    let few = |count: usize, most: u32| count <= most as usize;
    let fine = fits(&results.uri, 768)
        && fits(&results.sha256, 64)
        && fits(&results.report, 253)
        && results.rows >= 0
        && fits(&summary.intervals, 16)
        && few(summary.factors.len(), limits::FACTORS)
        && few(
            summary.effects.len(),
            limits::SUMMARY_METRICS * limits::FACTORS,
        )
        && few(summary.best.len(), limits::SUMMARY_BEST)
        && few(summary.pareto.len(), limits::SUMMARY_PARETO)
        && factors_fit(summary)
        && summary
            .effects
            .iter()
            .all(|effect| fits(&effect.metric, limits::METRIC_NAME) && fits(&effect.factor, 16))
        && summary
            .best
            .iter()
            .all(|best| fits(&best.goal, 64) && point_fits(&best.configuration))
        && summary.pareto.iter().all(point_fits);
    if fine {
        Ok(())
    } else {
        Err("the summary has more of something than a status may have".into())
    }
}

fn factors_fit(summary: &Summary) -> bool {
    let fits = |text: &str, most: u32| text.chars().count() <= most as usize;
    let few = |count: usize, most: u32| count <= most as usize;
    summary.factors.iter().all(|factor| {
        fits(&factor.factor, 16)
            && few(factor.levels.len(), limits::LEVELS)
            && factor
                .levels
                .iter()
                .all(|level| fits(level, limits::MODEL_NAME))
            && few(factor.metrics.len(), limits::SUMMARY_METRICS)
            && factor.metrics.iter().all(|metric| {
                fits(&metric.metric, limits::METRIC_NAME)
                    && few(metric.mean.len(), limits::LEVELS)
                    && few(metric.half_width.len(), limits::LEVELS)
            })
    })
}

fn point_fits(point: &Point) -> bool {
    point.model.chars().count() <= limits::MODEL_NAME as usize && point.dtype.len() <= 8
}

#[cfg(test)]
pub(crate) mod tests {
    use inferbench_crds::{Outcome, status::CollectedResults};
    use miniz_oxide::deflate::compress_to_vec_zlib;

    use super::*;

    /// The termination messages that hand over a collection in parts of so many bytes.
    pub fn cut(collected: &Collected, bytes: usize) -> Vec<String> {
        let stream = compress_to_vec_zlib(&serde_json::to_vec(collected).expect("JSON"), 9);
        let parts: Vec<&[u8]> = stream.chunks(bytes).collect();
        let chunk = |(part, data): (usize, &&[u8])| Chunk {
            part: u32::try_from(part).expect("few"),
            parts: u32::try_from(parts.len()).expect("few"),
            sha256: sha256_hex(&stream),
            data: STANDARD.encode(data),
            message: None,
        };
        let chunks = parts.iter().enumerate().map(chunk);
        chunks
            .map(|chunk| serde_json::to_string(&chunk).expect("JSON"))
            .collect()
    }

    pub fn collected() -> Collected {
        Collected {
            results: CollectedResults {
                uri: "s3://bucket/bench/thesis-0f1e2d3c".into(),
                sha256: "ab".repeat(32),
                rows: 4,
                report: "report.html".into(),
                ..CollectedResults::default()
            },
            summary: Summary {
                trials: 3,
                intervals: "Replicates".into(),
                ..Summary::default()
            },
            recovered: vec![(2, Outcome::Succeeded)],
        }
    }

    fn read(reports: &[String]) -> Result<Collected, String> {
        assemble(reports.iter().map(String::as_str))
    }

    #[test]
    fn parts_in_any_order_make_the_whole() {
        let mut reports = cut(&collected(), 50);
        assert!(reports.len() > 3);
        assert_eq!(read(&reports), Ok(collected()));
        reports.reverse();
        reports.push(reports[0].clone());
        reports.push(String::new());
        reports.push("{}".into());
        assert_eq!(read(&reports), Ok(collected()));
    }

    #[test]
    fn what_is_missing_or_damaged_is_refused() {
        let reports = cut(&collected(), 50);
        let count = reports.len();
        assert_eq!(
            read(&reports[1..]),
            Err(format!("part 0 of {count} is missing"))
        );
        assert_eq!(read(&[]), Err("no pod has handed over anything".into()));
        let mut other = collected();
        other.results.rows = 5;
        let mixed = [&reports[..1], &cut(&other, 50)[1..]].concat();
        assert_eq!(
            read(&mixed),
            Err("the parts belong to different collections".into())
        );
        let mut swapped = reports.clone();
        swapped[0] = swapped[0].replace("\"part\":0", "\"part\":1");
        swapped[1] = swapped[1].replace("\"part\":1", "\"part\":0");
        assert_eq!(
            read(&swapped),
            Err("the parts do not have the hash that they name".into())
        );
        assert!(
            read(&["nonsense".into()])
                .expect_err("refused")
                .contains("is no chunk")
        );
        let beyond = r#"{"part": 3, "parts": 2, "sha256": "x", "data": ""}"#;
        assert_eq!(
            read(&[beyond.into()]),
            Err("there is no part 3 of 2".into())
        );
    }

    #[test]
    fn what_a_status_has_no_room_for_is_refused() {
        let mut wide = collected();
        wide.summary.pareto = vec![Point::default(); 17];
        assert!(
            read(&cut(&wide, 500))
                .expect_err("refused")
                .contains("more of something")
        );
        wide.summary.pareto = vec![
            Point {
                model: "x".repeat(3_000),
                ..Point::default()
            };
            16
        ];
        assert!(
            read(&cut(&wide, 500))
                .expect_err("refused")
                .contains("at most 32768")
        );
    }
}
