//! The engine against itself, however its work is divided among ranks: shared layers, stages, replicas.

use std::path::PathBuf;

use inferbench_engine::config::ModelConfig;
use inferbench_engine::presets::preset;
use inferbench_engine::{
    Engine, EngineError, Format, LoadOptions, Parallel, Processor, Weights, size,
};

/// Ranks that share every layer, stages, replicas. The models have three layers, the smallest batch one sequence.
const DIVISIONS: [[usize; 3]; 7] = [
    [1, 2, 1],
    [1, 3, 1],
    [2, 2, 1],
    [1, 1, 2],
    [1, 1, 3],
    [1, 3, 2],
    [2, 2, 2],
];

fn parallel([tensor, pipeline, data]: [usize; 3]) -> Parallel {
    Parallel {
        tensor,
        pipeline,
        data,
    }
}

fn load(weights: &Weights, format: Format, division: [usize; 3]) -> Result<Engine, EngineError> {
    let options = LoadOptions {
        dtype: format,
        processor: Processor::Cpu,
        parallel: parallel(division),
        max_batch: 8,
        max_seq: 64,
    };
    Engine::load(weights, &options)
}

fn random(config: ModelConfig) -> Weights {
    Weights::Random { config, seed: 42 }
}

fn tiny(name: &str) -> Weights {
    random(preset(name).unwrap())
}

fn rows(batch: usize, len: usize) -> Vec<Vec<u32>> {
    let id = |b: usize, i: usize| ((b * 131 + i * 37 + 11) % 509) as u32;
    (0..batch)
        .map(|b| (0..len).map(|i| id(b, i)).collect())
        .collect()
}

/// All that one engine says of a batch.
#[derive(Debug)]
struct Said {
    logits: Vec<Vec<f32>>,
    ids: Vec<Vec<u32>>,
    scores: Vec<[f64; 2]>,
}

impl Said {
    fn by(engine: &mut Engine, prompts: &[Vec<u32>], n: usize) -> Self {
        let made = engine.generate(prompts, n).unwrap();
        assert_eq!(made.step_ends.len(), n);
        assert!(made.step_ends.is_sorted(), "{:?}", made.step_ends);
        let scores = engine.score(prompts, &made.ids).unwrap();
        Self {
            logits: engine.last_logits(prompts).unwrap(),
            ids: made.ids,
            scores: scores
                .iter()
                .map(|score| [score.mean_log_likelihood, score.similarity])
                .collect(),
        }
    }

    #[track_caller]
    fn assert_is(&self, wanted: &Self, what: &str) {
        assert_eq!(self.ids, wanted.ids, "{what}");
        assert_eq!(self.logits.len(), wanted.logits.len(), "{what}");
        for (got, wanted) in self.logits.iter().zip(&wanted.logits) {
            assert_eq!(got.len(), wanted.len(), "{what}");
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5;
            assert!(got.iter().zip(wanted).all(near), "{what}: logits");
        }
        assert_eq!(self.scores.len(), wanted.scores.len(), "{what}");
        for (got, wanted) in self.scores.iter().zip(&wanted.scores) {
            let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-5;
            assert!(
                got.iter().zip(wanted).all(near),
                "{what}: {got:?}, {wanted:?}"
            );
        }
    }
}

/// With fewer sequences than replicas and stages, too, and with one new id, which goes back to no stage.
#[test]
fn however_the_work_is_divided_results_are_the_same() {
    for name in ["tiny-gpt2", "tiny-llama"] {
        let weights = tiny(name);
        let mut one = load(&weights, Format::F32, [1, 1, 1]).unwrap();
        for division in DIVISIONS {
            let mut engine = load(&weights, Format::F32, division).unwrap();
            assert_eq!(engine.info().parallel, parallel(division));
            for (batch, n) in [(1, 9), (3, 1), (5, 9), (3, 2), (1, 1)] {
                let prompts = rows(batch, 17);
                let wanted = Said::by(&mut one, &prompts, n);
                let what = format!("{name} in {division:?}, {n} new ids for {batch}");
                Said::by(&mut engine, &prompts, n).assert_is(&wanted, &what);
            }
        }
    }
}

/// Four stages have more than one part under way that is with neither the first nor the last.
#[test]
fn ids_go_round_many_stages() {
    for (name, layers) in [
        ("tiny-gpt2", "n_layer"),
        ("tiny-llama", "num_hidden_layers"),
    ] {
        let mut json = preset(name).unwrap().to_json();
        assert!(json[layers].is_u64(), "{name} has no {layers}");
        json[layers] = 4.into();
        let weights = random(ModelConfig::parse(&json.to_string()).unwrap());
        let mut one = load(&weights, Format::F32, [1, 1, 1]).unwrap();
        for division in [[1, 3, 1], [1, 4, 1]] {
            let mut engine = load(&weights, Format::F32, division).unwrap();
            for (batch, n) in [(2, 9), (3, 1), (3, 7), (4, 2), (5, 9)] {
                let prompts = rows(batch, 17);
                let wanted = Said::by(&mut one, &prompts, n);
                let what = format!("{name} in {division:?}, {n} new ids for {batch}");
                Said::by(&mut engine, &prompts, n).assert_is(&wanted, &what);
            }
        }
    }
}

/// Whole sequences together, one by one, and in parts.
#[test]
fn stages_pass_on_a_prompt_in_chunks() {
    let prompts = rows(4, 30);
    for name in ["tiny-gpt2", "tiny-llama"] {
        let weights = tiny(name);
        let mut one = load(&weights, Format::F32, [1, 1, 1]).unwrap();
        let wanted = Said::by(&mut one, &prompts, 4);
        for division in [[1, 3, 1], [2, 2, 2]] {
            let mut engine = load(&weights, Format::F32, division).unwrap();
            for chunk in [1, 7, 30, 90, 360] {
                engine.set_prefill_rows(chunk);
                let what = format!("{name} in {division:?} by {chunk}");
                Said::by(&mut engine, &prompts, 4).assert_is(&wanted, &what);
            }
        }
    }
}

/// A head that is tied to an embedding on another stage, and one that is not; biases, norms of heads; packed weights.
#[test]
fn every_kind_of_model_can_be_divided() {
    let prompts = rows(3, 12);
    for name in ["tiny-gpt2", "tiny-llama", "tiny-qwen2", "tiny-qwen3"] {
        for tied in [false, true] {
            let mut json = preset(name).unwrap().to_json();
            json["tie_word_embeddings"] = tied.into();
            let weights = random(ModelConfig::parse(&json.to_string()).unwrap());
            for format in [Format::F32, Format::Q8_0] {
                let mut one = load(&weights, format, [1, 1, 1]).unwrap();
                let mut three = load(&weights, format, [1, 3, 2]).unwrap();
                let what = format!("{name}, tied: {tied}, {format}");
                let wanted = Said::by(&mut one, &prompts, 6);
                Said::by(&mut three, &prompts, 6).assert_is(&wanted, &what);
            }
        }
    }
}

#[test]
fn half_precision_goes_from_stage_to_stage() {
    let prompts = rows(3, 12);
    for format in [Format::BF16, Format::F16] {
        let weights = tiny("tiny-llama");
        let mut one = load(&weights, format, [1, 1, 1]).unwrap();
        let wanted = one.last_logits(&prompts).unwrap();
        let mut three = load(&weights, format, [1, 3, 1]).unwrap();
        let logits = three.last_logits(&prompts).unwrap();
        for (a, b) in logits.iter().flatten().zip(wanted.iter().flatten()) {
            assert!((a - b).abs() < 0.01, "{format}: {a}, wanted {b}");
        }
        // Parts of a batch are rounded differently: an id is the best of one rank's, or as good.
        let ids = three.generate(&prompts, 6).unwrap().ids;
        for step in 0..6 {
            let so_far = prompts
                .iter()
                .zip(&ids)
                .map(|(p, ids)| [p.as_slice(), &ids[..step]].concat());
            let logits = one.last_logits(&so_far.collect::<Vec<_>>()).unwrap();
            for (logits, ids) in logits.iter().zip(&ids) {
                let best = logits.iter().copied().fold(f32::MIN, f32::max);
                let taken = logits[ids[step] as usize];
                assert!(
                    best - taken < 0.02,
                    "{format}: {taken} at {step}, best {best}"
                );
            }
        }
        let [mine, wanted] = [&mut three, &mut one].map(|e| e.score(&prompts, &ids).unwrap());
        for (a, b) in mine.iter().zip(&wanted) {
            let apart = (a.mean_log_likelihood - b.mean_log_likelihood).abs();
            assert!(apart < 0.01, "{format}: {a:?}, wanted {b:?}");
        }
    }
}

/// Reference models come whole, as often as wanted.
#[test]
fn a_reference_model_has_replicas_and_no_stages() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gemma3");
    let weights = Weights::Path(dir);
    let prompts: Vec<_> = rows(3, 7)
        .into_iter()
        .map(|row| row.into_iter().map(|id| id % 64).collect())
        .collect();
    let mut one = load(&weights, Format::F32, [1, 1, 1]).unwrap();
    let mut two = load(&weights, Format::F32, [1, 1, 2]).unwrap();
    let wanted = one.generate(&prompts, 5).unwrap().ids;
    // A request that it refuses leaves it as it was.
    for engine in [&mut one, &mut two] {
        let error = engine.score(&prompts, &wanted).unwrap_err();
        assert!(
            matches!(&error, EngineError::Unsupported(why) if why.contains("no hidden states")),
            "{error}"
        );
    }
    assert_eq!(two.generate(&prompts, 5).unwrap().ids, wanted);
    for (division, wanted) in [
        ([1, 2, 1], "one device only, not on 2"),
        ([2, 1, 2], "one device only, not on 2 for each replica"),
    ] {
        let error = load(&weights, Format::F32, division).err().unwrap();
        let why = matches!(&error, EngineError::Unsupported(why) if why.ends_with(wanted));
        assert!(why, "{error}");
    }
}

#[test]
fn what_cannot_be_divided_is_unsupported() {
    let config = preset("tiny-llama").unwrap();
    let why = |division| size::unsupported(&config, parallel(division), 1, 1, Format::F32);
    assert_eq!(why([2, 3, 7]), None);
    assert_eq!(why([5, 1, 1]).unwrap(), "24 heads are not divisible by 5");
    assert_eq!(
        why([5, 2, 3]).unwrap(),
        "24 heads are not divisible by 5, which is gpus 30 / (pipelineParallel 2 × dataParallel 3)"
    );
    let heads = why([8, 1, 2]).unwrap();
    assert!(
        heads.starts_with("12 key and value heads")
            && heads.ends_with("over 8, which is gpus 16 / (pipelineParallel 1 × dataParallel 2)"),
        "{heads}"
    );
    assert_eq!(
        why([1, 4, 1]).unwrap(),
        "3 layers cannot be divided into 4 stages"
    );
    for none in [[0, 1, 1], [1, 0, 1], [1, 1, 0]] {
        assert!(why(none).unwrap().starts_with("0 ranks"));
    }
    let error = load(&random(config.clone()), Format::F32, [1, 4, 1]);
    assert!(matches!(error, Err(EngineError::Unsupported(_))));
}
