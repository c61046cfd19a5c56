//! The quality of generated text, and quantized weights, in the records of trials.

use std::fs;

use inferbench_crds::spec::Dtype;
use inferbench_results::record::TrialRecord;
use serde_json::json;

use crate::place::{Place, SPEC, stderr, stdout};

/// Every character is a token.
fn tokenizer() -> String {
    let characters = (' '..='~').zip(1..);
    let mut vocab: serde_json::Map<_, _> = characters
        .map(|(character, id)| (character.to_string(), json!(id)))
        .collect();
    vocab.insert("<unk>".into(), 0.into());
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>"},
    })
    .to_string()
}

/// Three models: made up, of files, and of files without a tokenizer.
fn place() -> Place {
    let place = Place::new(SPEC);
    let folder = |name: &str| place.path().join(name).display().to_string();
    let (text, mute) = (folder("text"), folder("mute"));
    for out in [&text, &mute] {
        let made = place
            .command(&["weights", "--preset", "tiny-llama", "--out", out])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", stderr(&made));
    }
    fs::write(place.path().join("text/tokenizer.json"), tokenizer()).unwrap();
    place.write(
        &SPEC
            .replace(
                "[{name: tiny, source: {random: {preset: tiny-gpt2}}}]",
                &format!(
                    "[{{name: made, source: {{random: {{preset: tiny-llama}}}}}}, \
                      {{name: text, source: {{path: {text}}}}}, {{name: mute, source: {{path: {mute}}}}}]"
                ),
            )
            .replace("batchSize: [1, 2]", "batchSize: [2]")
            .replace("inputLength: [4, 8]", "inputLength: [12]")
            .replace("outputLength: [3]", "outputLength: [9]")
            .replace("gpus: [0]", "gpus: [0]\n      dtype: [f32, q8_0]")
            .replace("replicates: 2", "replicates: 1")
            .replace("remeasureInvalid: 0", "remeasureInvalid: 0\n    quality: true"),
    );
    place
}

#[test]
fn quality_is_judged_where_what_is_written_can_mean_something() {
    let place = place();
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let records = place.records();
    assert_eq!(records.len(), 6);
    let of = |name: &str, dtype| -> &TrialRecord {
        let found = records.iter().find(|record| {
            let combination = &record.request.combination;
            combination.model.name == name && combination.dtype == dtype
        });
        found.unwrap()
    };
    for dtype in [Dtype::F32, Dtype::Q8_0] {
        for (name, why) in [("made", "random weights"), ("mute", "no tokenizer")] {
            let record = of(name, dtype);
            assert_eq!(record.quality, None);
            let missing = record.quality_missing.as_ref().unwrap();
            assert!(missing.starts_with(why), "{missing}");
        }
        let record = of("text", dtype);
        assert_eq!(record.quality_missing, None);
        let quality = record.quality.unwrap();
        // Untrained: hardly better than even over 509 tokens, but these are the likeliest ones.
        assert!((1.0..509.0).contains(&quality.perplexity), "{quality:?}");
        assert!((quality.perplexity.ln() + quality.mean_log_likelihood).abs() < 1e-9);
        assert!((0.0..=1.0).contains(&quality.repetition_rate.unwrap()));
        assert!(quality.prompt_similarity.abs() <= 1.0);
    }
    let bytes = |dtype| of("text", dtype).effective.as_ref().unwrap().weight_bytes;
    assert_eq!(
        of("text", Dtype::Q8_0).effective.as_ref().unwrap().dtype,
        "q8_0"
    );
    let ratio = bytes(Dtype::Q8_0) as f64 / bytes(Dtype::F32) as f64;
    // 8.5 bits of 32, and a few more for norms, biases and filled-up blocks.
    assert!((8.5 / 32.0..0.31).contains(&ratio), "{ratio}");
    for row in place.rows() {
        let known = row.model == "text";
        let cells = [
            row.mean_log_likelihood,
            row.perplexity,
            row.repetition_rate,
            row.prompt_similarity,
        ];
        assert!(cells.iter().all(|cell| cell.is_some() == known), "{row:?}");
    }
}

#[test]
fn random_weights_are_noted_beforehand() {
    let place = place();
    for command in ["validate", "plan"] {
        let output = place.command(&[command, "spec.yaml"]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let text = stdout(&output);
        assert!(
            text.contains("note: spec.measurement.quality: made has random weights"),
            "{text}"
        );
        assert!(!text.contains("text has"), "{text}");
    }
}
