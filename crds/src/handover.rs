//! How the result of a collection, or of a look between blocks, reaches the resource's status: [`Collected`] or [`Decided`]
//! as JSON, compressed by zlib and cut into [`Chunk`]s, one in the termination message of each pod. The runner cuts, the
//! operator joins.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use miniz_oxide::{deflate::compress_to_vec_zlib, inflate::decompress_to_vec_zlib_with_limit};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    contract::{Chunk, Collected, Decided, TERMINATION_MESSAGE_BYTES},
    crd, limits, schema, sha256_hex,
};

/// Bytes of the zlib stream in one chunk: what a termination message has room for, in base64.
pub const CHUNK_BYTES: usize = (TERMINATION_MESSAGE_BYTES - FRAME_BYTES) / 4 * 3;

/// Bytes of a chunk's JSON beside its data: numbers, names and the hash.
const FRAME_BYTES: usize = 160;

/// The best that zlib can do: what is compressed is small.
const LEVEL: u8 = 9;

/// The most that a stream may unfold to: the summary, and a line for each trial that was recovered.
const MOST_BYTES: usize = 2 << 20;

/// How many chunks of [`CHUNK_BYTES`] a stream of `bytes` bytes takes.
#[must_use]
pub fn chunks(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(CHUNK_BYTES)).unwrap_or(u32::MAX)
}

/// How many chunks the decisions on `combinations` take at most: a stream of bits that says nothing twice is as
/// long as the bits.
#[must_use]
pub fn chunks_of_decisions(combinations: u32) -> u32 {
    chunks(combinations as usize / 6 + 256)
}

/// Cuts what is handed over into chunks with `bytes` bytes of the stream each: [`CHUNK_BYTES`], outside of tests.
///
/// # Errors
/// Where it cannot be written as JSON: never in practice.
pub fn cut(handed: &impl Serialize, bytes: usize) -> serde_json::Result<Vec<Chunk>> {
    let json = serde_json::to_vec(handed)?;
    Ok(chunks_of(&compress_to_vec_zlib(&json, LEVEL), bytes))
}

fn chunks_of(stream: &[u8], bytes: usize) -> Vec<Chunk> {
    let parts: Vec<&[u8]> = stream.chunks(bytes.max(1)).collect();
    let sha256 = sha256_hex(stream);
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    (0..)
        .zip(parts)
        .map(|(part, data)| Chunk {
            part,
            parts: count,
            sha256: sha256.clone(),
            data: STANDARD.encode(data),
            message: None,
        })
        .collect()
}

/// Joins what the termination messages of a collection's pods say, in any order and with repetitions. Nothing is taken
/// unchecked: a status that the API server refuses would never be written.
///
/// # Errors
/// Where a part is missing or damaged, or where the resource's schema does not allow what they say.
pub fn join<'a>(reports: impl Iterator<Item = &'a str>) -> Result<Collected, String> {
    let collected: Collected = whole(reports, "summary")?;
    check(&collected)?;
    Ok(collected)
}

/// Joins what the termination messages of a look's pods say, as [`join`] does: the combinations, ascending, that run no
/// further after these `blocks`.
///
/// # Errors
/// Where a part is missing or damaged, or where they speak of other blocks or of combinations that there are not.
pub fn join_decided<'a>(
    reports: impl Iterator<Item = &'a str>,
    blocks: u32,
    combinations: u32,
) -> Result<Vec<u32>, String> {
    let decided: Decided = whole(reports, "decisions")?;
    if decided.blocks != blocks {
        return Err(format!(
            "the decisions are those after {} blocks, not after {blocks}",
            decided.blocks
        ));
    }
    decided.combinations(combinations)
}

impl Decided {
    /// The decisions after some blocks, of a design with this number of combinations before exclusion, on those
    /// that run no further.
    #[must_use]
    pub fn new(blocks: u32, combinations: u32, enough: impl IntoIterator<Item = u32>) -> Self {
        let mut bits = vec![0_u8; (combinations as usize).div_ceil(8)];
        for combination in enough {
            if let Some(byte) = bits.get_mut(combination as usize / 8) {
                *byte |= 1 << (combination % 8);
            }
        }
        Self {
            blocks,
            enough: STANDARD.encode(bits),
        }
    }

    /// The combinations that run no further, ascending.
    fn combinations(&self, combinations: u32) -> Result<Vec<u32>, String> {
        let bits = STANDARD
            .decode(&self.enough)
            .map_err(|error| format!("the decisions are not base64: {error}"))?;
        let needed = (combinations as usize).div_ceil(8);
        if bits.len() != needed {
            return Err(format!(
                "the decisions have {} bytes, and {combinations} combinations need {needed}",
                bits.len()
            ));
        }
        let slots = u32::try_from(needed * 8).unwrap_or(u32::MAX);
        let set = (0..slots).filter(|at| bits[*at as usize / 8] >> (at % 8) & 1 == 1);
        let set: Vec<u32> = set.collect();
        match set.iter().find(|at| **at >= combinations) {
            Some(beyond) => Err(format!(
                "the decisions speak of combination {beyond}, and there are {combinations}"
            )),
            None => Ok(set),
        }
    }
}

/// The document that is handed over, from its parts in termination messages.
fn whole<'a, T: DeserializeOwned>(
    reports: impl Iterator<Item = &'a str>,
    what: &str,
) -> Result<T, String> {
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
    serde_json::from_slice(&json).map_err(|error| format!("the parts are no {what}: {error}"))
}

/// Whether a status has room for it.
fn check(collected: &Collected) -> Result<(), String> {
    static SCHEMA: LazyLock<Value> = LazyLock::new(crd::status_schema);
    let Collected {
        results, summary, ..
    } = collected;
    let bytes = serde_json::to_vec(summary).map_or(usize::MAX, |json| json.len());
    if bytes > limits::SUMMARY_BYTES {
        return Err(format!(
            "status.summary has {bytes} bytes, and at most {} are allowed",
            limits::SUMMARY_BYTES
        ));
    }
    if results.rows < 0 {
        return Err(format!(
            "status.results.rows: {} is not at least 0",
            results.rows
        ));
    }
    let status = json!({ "results": results, "summary": summary }).into();
    match schema::check(&status, &SCHEMA, "status").first() {
        None => Ok(()),
        Some(found) => Err(format!("{}: {}", found.path, found.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Outcome,
        factor::{Factor, Level, Levels},
        status::{
            Best, CollectedResults, Confirmed, FactorSummary, MeasuredConfiguration, MetricByLevel,
            Summary,
        },
    };

    fn point(model: &str) -> MeasuredConfiguration {
        let levels = [
            (Factor::MODEL, Level::from(model)),
            (Factor::BATCH_SIZE, Level::from(4)),
            (Factor::INPUT_LENGTH, Level::from(32)),
            (Factor::OUTPUT_LENGTH, Level::from(16)),
            (Factor::GPUS, Level::from(0)),
            (Factor::DTYPE, Level::from("f32")),
            (Factor::named("maxNumSeqs"), Level::from(64)),
            (Factor::named("scheduler"), Level::from("fcfs")),
        ];
        MeasuredConfiguration {
            levels: Levels::new(levels),
            output_throughput: Some(213.4),
            ..MeasuredConfiguration::default()
        }
    }

    fn collected() -> Collected {
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
                factors: vec![FactorSummary {
                    factor: "batchSize".into(),
                    levels: vec!["1".into(), "4".into()],
                    metrics: vec![MetricByLevel {
                        metric: "ttft_ms".into(),
                        mean: vec![Some(1.25), None],
                        half_width: vec![None, None],
                    }],
                }],
                best: vec![Best {
                    goal: "highest throughput".into(),
                    confirmation: Some(Confirmed::Beaten),
                    configuration: point("gpt2"),
                }],
                pareto: vec![point("gpt2")],
                ..Summary::default()
            },
            recovered: vec![(2, Outcome::Succeeded)],
        }
    }

    fn messages(collected: &Collected, bytes: usize) -> Vec<String> {
        let chunks = cut(collected, bytes).expect("JSON");
        let json = |chunk| serde_json::to_string(chunk).expect("JSON");
        chunks.iter().map(json).collect()
    }

    fn read(reports: &[String]) -> Result<Collected, String> {
        join(reports.iter().map(String::as_str))
    }

    #[test]
    fn every_chunk_fits_into_a_termination_message() {
        let stream: Vec<u8> = (0..20_000_u32).map(|byte| byte as u8).collect();
        let cut = chunks_of(&stream, CHUNK_BYTES);
        assert_eq!(cut.len(), chunks(stream.len()) as usize);
        let mut whole = Vec::new();
        for mut chunk in cut {
            whole.extend(STANDARD.decode(&chunk.data).expect("base64"));
            (chunk.part, chunk.parts) = (u32::MAX, u32::MAX);
            let bytes = serde_json::to_vec(&chunk).expect("JSON").len();
            assert!(bytes <= TERMINATION_MESSAGE_BYTES, "{bytes}");
        }
        assert_eq!(whole, stream);
    }

    #[test]
    fn parts_in_any_order_make_the_whole() {
        let mut reports = messages(&collected(), 50);
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
        let reports = messages(&collected(), 50);
        let count = reports.len();
        assert_eq!(
            read(&reports[1..]),
            Err(format!("part 0 of {count} is missing"))
        );
        assert_eq!(read(&[]), Err("no pod has handed over anything".into()));
        let mut other = collected();
        other.results.rows = 5;
        let mixed = [&reports[..1], &messages(&other, 50)[1..]].concat();
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
    fn decisions_lead_back_within_their_chunks() {
        let mut random = crate::splitmix::SplitMix64::new(5);
        for combinations in [1, 7, 8, 9, 1_000, 16_666, 25_000] {
            let enough: Vec<u32> = (0..combinations).filter(|_| random.below(2) == 0).collect();
            let decided = Decided::new(4, combinations, enough.clone());
            let parts = cut(&decided, CHUNK_BYTES).expect("JSON");
            assert!(
                parts.len() <= chunks_of_decisions(combinations) as usize,
                "{combinations}"
            );
            let reports: Vec<String> = parts
                .iter()
                .map(|part| serde_json::to_string(part).expect("JSON"))
                .collect();
            let read = |blocks, combinations| {
                join_decided(reports.iter().map(String::as_str), blocks, combinations)
            };
            assert_eq!(read(4, combinations), Ok(enough));
            assert_eq!(
                read(5, combinations),
                Err("the decisions are those after 4 blocks, not after 5".into())
            );
            assert!(
                read(4, combinations + 8)
                    .expect_err("refused")
                    .contains("need")
            );
        }
        let beyond = Decided::new(4, 8, [7]);
        assert_eq!(
            beyond.combinations(7),
            Err("the decisions speak of combination 7, and there are 7".into())
        );
    }

    #[test]
    fn what_a_status_has_no_room_for_is_refused() {
        let refused = |change: fn(&mut Collected)| {
            let mut wide = collected();
            change(&mut wide);
            read(&messages(&wide, 500)).expect_err("refused")
        };
        assert_eq!(
            refused(|wide| wide.summary.pareto = vec![point("gpt2"); 17]),
            "status.summary.pareto: has 17 items, and at most 12 are allowed"
        );
        assert_eq!(
            refused(|wide| wide.summary.factors[0].levels[1] = "x".repeat(64)),
            format!(
                "status.summary.factors[0].levels[1]: \"{}…\" has 64 characters, and at most 63 are allowed",
                "x".repeat(60)
            )
        );
        assert_eq!(
            refused(|wide| wide.results.rows = -1),
            "status.results.rows: -1 is not at least 0"
        );
        assert!(
            refused(|wide| wide.results.report = "r".repeat(254))
                .starts_with("status.results.report: ")
        );
        let large = refused(|wide| wide.summary.pareto = vec![point(&"x".repeat(3_000)); 16]);
        let most = format!("at most {}", limits::SUMMARY_BYTES);
        assert!(large.contains(&most), "{large}");
    }
}
