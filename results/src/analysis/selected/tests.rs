//! Simulated sweeps of selected designs, with known truths.

use inferbench_crds::{factor::Level, outcome::Outcome, spec::Objectives, splitmix::SplitMix64};
use serde_json::json;

use super::*;
use crate::{sample::Factor, summary::summarize};

const SWEEPS: usize = 500;

/// The study's 2,016 combinations, of which some are selected.
fn design(combinations: u32, method: &str, model: Model, replicates: u32) -> Design {
    let model_of =
        |name: &str| json!({ "name": name, "source": { "random": { "preset": "tiny-gpt2" } } });
    serde_json::from_value(json!({
        "factors": {
            "model": [model_of("compact"), model_of("large")],
            "batchSize": [1, 2, 4, 8, 16, 32, 64],
            "inputLength": [16, 32, 64, 128, 256, 512],
            "outputLength": [16, 32, 64, 128, 256, 512],
            "gpus": [1, 2, 4, 8],
        },
        "select": { "method": method, "combinations": combinations, "model": model },
        "replicates": replicates,
    }))
    .unwrap()
}

fn normal(random: &mut SplitMix64) -> f64 {
    let mut unit = || (f64::from(random.below(u32::MAX)) + 0.5) / f64::from(u32::MAX);
    (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
}

/// Of a combination: model (0 or 1), and logarithms to the base 2 of batch, input, output and GPUs.
type Point = [f64; 5];

fn point(expansion: &Expansion, index: u32) -> Point {
    let number = |factor| {
        expansion
            .level(index, &factor)
            .and_then(Level::number)
            .unwrap()
            .log2()
    };
    let large = expansion.level(index, &Factor::MODEL) == Some(&Level::from("large"));
    [
        f64::from(u8::from(large)),
        number(Factor::BATCH_SIZE),
        number(Factor::INPUT_LENGTH),
        number(Factor::OUTPUT_LENGTH),
        number(Factor::GPUS),
    ]
}

/// A surface that the model Quadratic can describe: powers, interactions of pairs, curvature.
fn by_powers(p: Point) -> f64 {
    let [model, batch, input, output, gpus] = p;
    3.0 + 1.7 * model + 0.15 * batch + 0.05 * input + 0.68 * output - 0.35 * gpus
        + 0.02 * batch * batch
        + 0.015 * batch * gpus
        - 0.1 * model * gpus
        + 0.01 * batch * input
}

/// As the study goes: a sum of what grows with the work and what does not, which no such model says exactly.
fn by_work(p: Point) -> f64 {
    let [model, batch, input, output, gpus] = p;
    let (batch, input, output, gpus) = (batch.exp2(), input.exp2(), output.exp2(), gpus.exp2());
    let size = if model > 0.5 { 6.0 } else { 1.0 };
    let step = (4.0 * size / gpus.powf(0.7) + 0.4 * gpus) * (1.0 + 0.01 * batch);
    let context = 0.000_02 * size / gpus * batch * (input + output / 2.0);
    let ttft = 3.0 + step + 0.012 * size / gpus.powf(0.8) * batch * input;
    (ttft + (output - 1.0) * (step + context)).ln()
}

/// How a made-up sweep differs from its formula: standard deviations of the logarithm of combinations, blocks and
/// trials.
#[derive(Clone, Copy)]
struct Noise {
    combination: f64,
    block: f64,
    trial: f64,
}

struct Made {
    /// The truth of every combination, by its index.
    truth: Vec<f64>,
    rows: Vec<Row>,
}

fn made(design: &Design, formula: impl Fn(Point) -> f64, noise: Noise, seed: u64) -> Made {
    let mut random = SplitMix64::new(seed);
    let expansion = Expansion::new(design);
    let truth: Vec<f64> = (0..expansion.combinations_before_exclusion())
        .map(|index| formula(point(&expansion, index)) + noise.combination * normal(&mut random))
        .collect();
    let blocks: Vec<f64> = (0..expansion.replicates())
        .map(|_| noise.block * normal(&mut random))
        .collect();
    let rows = expansion.trials().map(|trial| {
        let at = (trial.index % expansion.combinations_before_exclusion()) as usize;
        let log = truth[at] + blocks[trial.replicate as usize] + noise.trial * normal(&mut random);
        let of = &trial.combination;
        let tokens = f64::from(of.batch_size * of.output_length);
        Row {
            trial_index: trial.index,
            run_order: trial.run_order,
            replicate: trial.replicate,
            trial_key: format!("{:064x}", trial.index),
            outcome: Some(Outcome::Succeeded),
            valid: Some(true),
            model: of.model.name.clone(),
            dtype: "bf16".into(),
            batch_size: of.batch_size,
            input_len: of.input_length,
            output_len: of.output_length,
            gpus: of.gpus,
            mean_ttlt_ms: Some(log.exp()),
            mean_ttft_ms: Some(log.exp() / 10.0),
            output_throughput: Some(tokens / log.exp() * 1e3),
            ..Row::default()
        }
    });
    Made {
        rows: rows.collect(),
        truth,
    }
}

/// The true effects: the ratio of the models, and per doubling of each number, averaged over all combinations.
fn effects_of(truth: &[f64], points: &[Point]) -> [f64; 5] {
    std::array::from_fn(|of| {
        let centre = points.iter().map(|point| point[of]).sum::<f64>() / points.len() as f64;
        let squares: f64 = points
            .iter()
            .map(|point| (point[of] - centre).powi(2))
            .sum();
        let products = points
            .iter()
            .zip(truth)
            .map(|(point, log)| (point[of] - centre) * log);
        (products.sum::<f64>() / squares).exp()
    })
}

fn covers(interval: &Interval, truth: f64) -> bool {
    interval.low.unwrap() <= truth && truth <= interval.high.unwrap()
}

/// In percent, how often the intervals of the model's ratio and of the four doublings hold the truth, and those of
/// predictions of what was not measured.
fn covered(
    designs: impl Iterator<Item = Design>,
    formula: fn(Point) -> f64,
    noise: Noise,
) -> ([f64; 5], f64) {
    let ttlt = Metric::named("ttltMs").unwrap();
    let mut counts = [0.0; 5];
    let (mut held, mut predicted, mut sweeps) = (0.0, 0.0, 0.0);
    let mut known = None;
    for (seed, design) in (0..).zip(designs) {
        let made = made(&design, formula, noise, seed);
        let selection = Selection::new(&made.rows, &design).unwrap();
        // Neither depends on what was chosen.
        let (points, contrasts) = known.get_or_insert_with(|| {
            let points: Vec<Point> = (0..2_016)
                .map(|index| point(&selection.expansion, index))
                .collect();
            (points, selection.all_contrasts(None))
        });
        sweeps += 1.0;
        let fitted = selection.fit(ttlt).unwrap();
        let found = contrasts.iter().map(|of| selection.effect(of, &fitted));
        let found: Vec<Interval> = found
            .map(|effect| {
                effect
                    .per_doubling
                    .unwrap_or_else(|| effect.ratios.last().unwrap().ratio)
            })
            .collect();
        for ((count, interval), truth) in counts
            .iter_mut()
            .zip(&found)
            .zip(effects_of(&made.truth, points))
        {
            *count += f64::from(u8::from(covers(interval, truth)));
        }
        for (index, digits) in selection
            .candidates
            .iter()
            .skip(seed as usize % 97)
            .step_by(97)
        {
            if selection.is_open(*index) {
                let interval = selection.predict(&fitted, digits).unwrap();
                held += f64::from(u8::from(covers(
                    &interval,
                    made.truth[*index as usize].exp(),
                )));
                predicted += 1.0;
            }
        }
    }
    (
        counts.map(|count| 100.0 * count / sweeps),
        100.0 * held / predicted,
    )
}

const EXACT: Noise = Noise {
    combination: 0.0,
    block: 0.03,
    trial: 0.02,
};

#[test]
fn effects_of_a_selection_are_recovered() {
    let inexact = Noise {
        combination: 0.03,
        ..EXACT
    };
    println!(
        "% of 95% intervals that hold           model  batch  input output   gpus | predictions"
    );
    for (what, noise) in [("as the model", EXACT), ("but for 3%", inexact)] {
        for combinations in [64, 128] {
            let design = design(combinations, "DOptimal", Model::Quadratic, 3);
            let designs = std::iter::repeat_n(design, SWEEPS);
            let (effects, predictions) = covered(designs, by_powers, noise);
            println!(
                "{what:12} {combinations:4} of 2,016, 3 blocks {effects:6.1?} | {predictions:.1}"
            );
            assert!(
                effects.iter().all(|share| *share >= 93.0),
                "{what} {combinations}: {effects:?}"
            );
            assert!(predictions >= 93.0, "{what} {combinations}: {predictions}");
        }
    }
}

/// A D-optimal choice stands at the ends of the levels and trusts the model between them; one that is spread over the
/// levels is an even sample of all combinations, whatever the model lacks: its intervals hold in about nine of ten.
#[test]
fn a_choice_that_is_spread_holds_where_the_model_does_not() {
    println!(
        "a model that lacks much                model  batch  input output   gpus | predictions"
    );
    for (method, sweeps) in [
        ("DOptimal", 40),
        ("LatinHypercube", 100),
        ("Sobol", 100),
        ("Random", 100),
    ] {
        let plain = design(64, method, Model::Quadratic, 3);
        let designs = (0..sweeps).map(|seed| Design {
            seed,
            ..plain.clone()
        });
        let (effects, predictions) = covered(designs, by_work, EXACT);
        println!("{method:14} 64 of 2,016, 3 blocks {effects:6.1?} | {predictions:.1}");
        if method == "DOptimal" {
            assert!(effects[1] < 50.0, "{effects:?}");
        } else {
            assert!(
                effects.iter().all(|share| *share >= 80.0),
                "{method}: {effects:?}"
            );
        }
    }
}

#[test]
fn a_lack_of_fit_is_seen() {
    let noise = Noise {
        combination: 0.0,
        block: 0.03,
        trial: 0.02,
    };
    let lacks = |model, formula: fn(Point) -> f64| -> u32 {
        let design = design(64, "DOptimal", model, 3);
        let flagged = (0..200).filter(|seed| {
            let made = made(&design, formula, noise, *seed);
            let selection = Selection::new(&made.rows, &design).unwrap();
            let fitted = selection.fit(Metric::named("ttltMs").unwrap()).unwrap();
            fitted
                .describe("ttltMs", &selection.coding)
                .lack_of_fit
                .unwrap()
                .p
                < 0.05
        });
        flagged.count() as u32
    };
    let (fits, main, work) = (
        lacks(Model::Quadratic, by_powers),
        lacks(Model::MainEffects, by_powers),
        lacks(Model::Quadratic, by_work),
    );
    println!("lack of fit at p < 0.05 in {fits}, {main}, {work} of 200");
    assert!(
        (2..=20).contains(&fits) && main == 200 && work == 200,
        "{fits} {main} {work}"
    );
}

#[test]
fn a_selected_sweep_is_described() {
    let design = design(64, "DOptimal", Model::TwoFactor, 2);
    let noise = Noise {
        combination: 0.0,
        block: 0.03,
        trial: 0.02,
    };
    let made = made(&design, by_powers, noise, 1);
    let objectives = Objectives::default();
    let summary = summarize("selected", &made.rows, &objectives);
    let analysis = crate::analysis::analyze_design(&made.rows, &summary, &objectives, &design);
    let selected = analysis.selected.as_ref().unwrap();
    assert_eq!(
        (selected.candidates, selected.measured, selected.terms),
        (2_016, 64, 16)
    );
    assert!(
        selected.aliased.is_empty() && selected.efficiency > 0.7,
        "{selected:?}"
    );
    assert_eq!(selected.fits.len(), 3);
    assert!(selected.predictions.len() > 20);
    let measured: Vec<Levels> = made.rows.iter().map(Row::levels).collect();
    for prediction in &selected.predictions {
        assert!(!measured.contains(&prediction.levels), "{prediction:?}");
        let throughput = prediction.metrics["outputThroughput"];
        assert!(
            throughput.low.unwrap() < throughput.value
                && throughput.value < throughput.high.unwrap()
        );
    }
    // Each model's own effects, by what the models do together with the others.
    let gpus: Vec<f64> = analysis
        .scopes
        .iter()
        .map(|scope| {
            let ttlt = scope
                .attribution
                .iter()
                .find(|of| of.metric == "ttltMs")
                .unwrap();
            let effect = ttlt
                .effects
                .iter()
                .find(|effect| effect.factor == Factor::GPUS)
                .unwrap();
            effect.per_doubling.unwrap().value.ln()
        })
        .collect();
    for (found, truth) in gpus.iter().zip([-0.355, -0.305, -0.405]) {
        assert!((found - truth).abs() < 0.02, "{gpus:?}");
    }
    let plain = crate::analysis::analyze(&made.rows, &summary, &objectives);
    assert_eq!(plain.selected, None);
    let whole = Design {
        select: None,
        ..design
    };
    assert_eq!(
        crate::analysis::analyze_design(&made.rows, &summary, &objectives, &whole),
        plain
    );
}

#[test]
fn what_failures_leave_aliased_is_not_reported() {
    let design = design(64, "DOptimal", Model::MainEffects, 2);
    let noise = Noise {
        combination: 0.0,
        block: 0.03,
        trial: 0.02,
    };
    let mut made = made(&design, by_powers, noise, 1);
    // The large model runs on 8 GPUs only, and the other one on 1.
    for row in &mut made.rows {
        if (row.model == "large") != (row.gpus == 8) {
            row.outcome = Some(Outcome::OutOfMemory);
            row.valid = None;
        }
    }
    for row in &mut made.rows {
        if row.model == "compact" && row.gpus != 1 {
            row.outcome = Some(Outcome::OutOfMemory);
            row.valid = None;
        }
    }
    let objectives = Objectives::default();
    let summary = summarize("selected", &made.rows, &objectives);
    let analysis = crate::analysis::analyze_design(&made.rows, &summary, &objectives, &design);
    let fit = analysis
        .selected
        .as_ref()
        .unwrap()
        .fits
        .iter()
        .find(|fit| fit.metric == "ttltMs")
        .unwrap();
    assert_eq!(
        fit.aliased,
        [Term::main(Factor::MODEL), Term::main(Factor::GPUS)]
    );
    let told: Vec<&str> = analysis.scopes[0].attribution[0]
        .effects
        .iter()
        .map(|effect| effect.factor.name())
        .collect();
    assert_eq!(told, ["batchSize", "inputLength", "outputLength"]);
}
