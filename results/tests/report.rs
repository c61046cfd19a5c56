//! Reports and figures of made-up sweeps, whole and broken: what they say, and that nothing in them breaks a page.

use std::collections::BTreeSet;

use inferbench_crds::{Duration, expectation::Expectation, outcome::Outcome, spec::Objectives};
use inferbench_results::{
    analysis::{Analysis, analyze, expectations::judge},
    figures::{self, Figure},
    fixtures::{servers::Servers, study::Study},
    report::{Report, html, markdown},
    row::Row,
    summary::{CombinationSummary, Summary, doubtful, summarize},
};

struct Made {
    summary: Summary,
    analysis: Analysis,
    objectives: Objectives,
    figures: Vec<Figure>,
    doubtful: Vec<CombinationSummary>,
}

impl Made {
    fn of(name: &str, rows: &[Row], objectives: Objectives) -> Self {
        let summary = summarize(name, rows, &objectives);
        let analysis = analyze(rows, &summary, &objectives);
        let figures = figures::all(&summary, &analysis);
        Self {
            summary,
            analysis,
            objectives,
            figures,
            doubtful: doubtful(rows),
        }
    }

    fn report(&self) -> Report<'_> {
        Report {
            summary: &self.summary,
            analysis: &self.analysis,
            objectives: &self.objectives,
            figures: &self.figures,
            doubtful: &self.doubtful,
        }
    }

    fn html(&self) -> String {
        html(&self.report())
    }

    fn markdown(&self) -> String {
        markdown(&self.report())
    }
}

/// Two models, few levels, two replicates.
fn small() -> Study {
    Study {
        batch_sizes: vec![1, 2, 4, 8, 16],
        input_lengths: vec![16, 256],
        output_lengths: vec![16, 256],
        gpus: vec![1, 2],
        replicates: 2,
        ..Study::default()
    }
}

fn objectives() -> Objectives {
    Objectives {
        max_ttft: Some(Duration::from_millis(60)),
        max_tpot: Some(Duration::from_millis(25)),
        cost_per_gpu_hour: Some("2.50".into()),
        ..Objectives::default()
    }
}

fn made(study: &Study) -> Made {
    Made::of("made-up", &study.rows(), Objectives::default())
}

/// A page as a reader sees it: its words without tags, a line per heading, cell row or paragraph.
fn words(page: &str) -> String {
    let body = page.split_once("<body>").map_or(page, |(_, body)| body);
    let mut text = String::new();
    let mut rest = body;
    while let Some(at) = rest.find('<') {
        text.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('>') else {
            break;
        };
        let tag = &rest[at + 1..at + end];
        let block = [
            "h1",
            "h2",
            "h3",
            "h4",
            "/p",
            "p>",
            "p ",
            "li",
            "/ul",
            "figcaption",
            "tr",
            "caption",
            "summary",
            "/h",
            "dt",
            "dd",
            "/tr",
            "svg",
        ];
        if tag.starts_with("/t") || tag.starts_with("td") || tag.starts_with("th") {
            text.push(if tag.starts_with("/tr") { '\n' } else { ' ' });
        } else if block.iter().any(|name| tag.starts_with(name)) {
            text.push('\n');
        }
        rest = &rest[at + end + 1..];
    }
    let lines = text.lines().map(str::split_whitespace);
    let lines = lines.map(|words| words.collect::<Vec<_>>().join(" "));
    lines
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Headings, sentences and the heads of tables, with 0 for every number: what stays while the statistics behind them do
/// not.
fn skeleton(page: &str) -> String {
    let rows = cut_out(&cut_out(page, "<svg", "</svg>"), "<tbody", "</tbody>");
    let mut text = String::new();
    let seen = words(&rows);
    let mut letters = seen.chars().peekable();
    while let Some(letter) = letters.next() {
        if !letter.is_ascii_digit() {
            text.push(letter);
            continue;
        }
        text.push('0');
        let mut held = None;
        while let Some(next) = letters.next_if(|c| c.is_ascii_digit() || matches!(c, '.' | ',')) {
            // A point or comma is the number's only where a digit follows.
            held = (!next.is_ascii_digit()).then_some(next);
        }
        text.extend(held);
    }
    text
}

/// The page without any element that begins and ends so.
fn cut_out(page: &str, begin: &str, end: &str) -> String {
    let mut out = String::new();
    let mut rest = page;
    while let Some(at) = rest.find(begin) {
        out.push_str(&rest[..at]);
        rest = rest[at..].split_once(end).map_or("", |(_, rest)| rest);
    }
    out + rest
}

/// Everything that has to hold of every page, whatever it is made of.
fn check(made: &Made) {
    let page = made.html();
    let visible = words(&page);
    for wrong in ["NaN", "Infinity", "None", "Some(", "undefined"] {
        assert!(!visible.contains(wrong), "{wrong} in\n{visible}");
    }
    for word in visible.split(|c: char| !c.is_alphanumeric()) {
        assert!(
            !["inf", "nan", "null"].contains(&word),
            "{word} in\n{visible}"
        );
    }
    for wrong in [
        "http:",
        "https:",
        "<script",
        "<link",
        "<img",
        "@import",
        "url(",
        "javascript:",
    ] {
        assert!(!page.contains(wrong), "{wrong}");
    }
    assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"));
    assert!(page.len() < 5_000_000, "{}", page.len());

    let harmless = [
        "a",
        "bdi",
        "body",
        "caption",
        "circle",
        "code",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "figcaption",
        "figure",
        "footer",
        "h1",
        "h2",
        "h3",
        "h4",
        "head",
        "header",
        "html",
        "li",
        "main",
        "meta",
        "nav",
        "p",
        "path",
        "section",
        "span",
        "style",
        "summary",
        "svg",
        "table",
        "tbody",
        "td",
        "text",
        "th",
        "thead",
        "title",
        "tr",
        "ul",
        "!DOCTYPE",
    ];
    for tag in page.split('<').skip(1) {
        let name = tag
            .trim_start_matches('/')
            .split([' ', '>'])
            .next()
            .unwrap_or_default();
        assert!(harmless.contains(&name), "{name}");
        // No attribute of an event: quotes in values are escaped, so a quote ends one.
        let (inside, _) = tag.split_once('>').unwrap_or_default();
        for (at, part) in inside.split('"').enumerate() {
            assert!(
                at % 2 == 1 || !part.trim_start().starts_with("on"),
                "{inside}"
            );
        }
    }

    let ids: Vec<&str> = attributes(&page, " id=\"");
    assert_eq!(
        ids.len(),
        ids.iter().collect::<BTreeSet<_>>().len(),
        "{ids:?}"
    );
    for target in attributes(&page, " href=\"#") {
        assert!(ids.contains(&target), "{target}");
    }
    // Headings descend one step at a time.
    let levels: Vec<u32> = page
        .match_indices("<h")
        .filter_map(|(at, _)| page[at + 2..].chars().next()?.to_digit(10))
        .collect();
    assert_eq!(levels.first(), Some(&1));
    assert!(
        levels.windows(2).all(|pair| pair[1] <= pair[0] + 1),
        "{levels:?}"
    );
    // Every picture is described or decoration; every heading of a table says of what it is one.
    for (at, _) in page.match_indices("<svg") {
        let tag = &page[at..at + page[at..].find('>').unwrap()];
        assert!(
            tag.contains("aria-hidden=\"true\"")
                || tag.contains("role=\"img\" aria-label=\"") && !tag.contains("aria-label=\"\""),
            "{tag}"
        );
    }
    assert!(!page.contains("<th>") && !page.contains("<th class"));
    assert_eq!(
        page.matches("<table>").count(),
        page.matches("<caption>").count()
    );

    for figure in &made.figures {
        assert!(!figure.caption.is_empty(), "{}", figure.name);
        assert_eq!(
            figure.drawing.is_none(),
            figure.table.rows.is_empty(),
            "{}",
            figure.name
        );
        assert_eq!(
            figure.drawing.is_none(),
            figure.caption.starts_with("Not drawn: "),
            "{}",
            figure.caption
        );
        for row in &figure.table.rows {
            assert_eq!(row.len(), figure.table.header.len(), "{}", figure.name);
        }
        let Some(drawing) = &figure.drawing else {
            continue;
        };
        assert!(drawing.panels.iter().all(|panel| !panel.alt.is_empty()));
        let svg = figure.svg().unwrap();
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 "));
        assert!(
            !svg.contains(" id=") && !svg.contains("NaN") && !svg.contains(">inf"),
            "{}",
            figure.name
        );
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
    let text = made.markdown();
    assert!(!text.contains("NaN") && !text.contains("<script"), "{text}");
}

fn attributes<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    page.split(attribute)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect()
}

#[test]
fn a_report_in_words() {
    let made = Made::of("made-up", &small().rows(), objectives());
    check(&made);
    for figure in &made.figures {
        assert!(figure.drawing.is_some(), "{}", figure.caption);
        let png = figure.png().unwrap();
        assert!(
            png.starts_with(b"\x89PNG") && png.len() > 5_000,
            "{}",
            figure.name
        );
    }
    insta::assert_snapshot!(skeleton(&made.html()));
}

#[test]
fn the_largest_error_of_all_cost_models_is_named() {
    let mut made = made(&small());
    let errors = |median_error, max_error| {
        move |check: &mut inferbench_results::analysis::cost::Check| {
            (check.median_error, check.max_error) = (median_error, max_error);
        }
    };
    let models = &mut made.analysis.cost_models;
    for model in models.iter_mut() {
        model.check.as_mut().map(errors(0.01, 0.02)).unwrap();
    }
    // The one that is worst in the median is not the one with the largest error.
    models[0].check.as_mut().map(errors(0.07, 0.08)).unwrap();
    models[1].check.as_mut().map(errors(0.03, 0.19)).unwrap();
    let figures = figures::all(&made.summary, &made.analysis);
    let figure = figures.iter().find(|figure| figure.name == "cost-models");
    let caption = &figure.unwrap().caption;
    assert!(
        caption.contains("median error is at most 7%, the largest 19%"),
        "{caption}"
    );
}

#[test]
fn a_report_in_markdown() {
    insta::assert_snapshot!(Made::of("made-up", &small().rows(), objectives()).markdown());
}

/// Every verdict, and names and texts that would break a page.
#[test]
fn a_report_of_what_was_expected() {
    let expectation = |name: &str, that: &str, reference: &str| Expectation {
        name: name.into(),
        that: that.into(),
        reference: reference.into(),
    };
    let rows = small().rows();
    let mut made = Made::of("made-up", &rows, objectives());
    made.analysis.expectations = judge(
        &rows,
        &[
            expectation(
                "batching pays",
                "pearson('batchSize', 'outputThroughput', {'model': 'small-1b'}) > 0.5",
                "r > 0.7",
            ),
            expectation("<script>|`*", "effect('gpus', 'ttltMs') > 1", "a|b & <i>"),
            expectation(
                "close",
                "effect('batchSize', 'ttltMs') == effect('batchSize', 'ttltMs')",
                "",
            ),
            expectation("quality", "mean('perplexity') < 9", ""),
        ],
    );
    check(&made);
    let text = made.markdown();
    let (before, section) = text.split_once("\nExpectations:").unwrap();
    assert!(before.contains("Of 4 expectations: 1 shown"), "{before}");
    insta::assert_snapshot!(section.split("Effects (").next().unwrap());
    let page = words(&made.html());
    assert!(
        page.contains("What was expected")
            && page.contains("1 shown, 1 refuted, 1 not shown and 1 cannot be judged"),
        "{page}"
    );
}

#[test]
fn a_report_of_nothing_in_markdown() {
    insta::assert_snapshot!(Made::of("nothing", &[], objectives()).markdown());
}

#[test]
fn a_sweep_with_gaps_says_so() {
    let study = Study {
        memory_tokens: 4_000.0,
        invalid_every: 7,
        ..small()
    };
    let mut rows = study.rows();
    let on_two = rows.iter_mut().find(|row| row.gpus_active == Some(2));
    on_two.unwrap().gpus_active = Some(1);
    let made = Made::of("made-up", &rows, Objectives::default());
    check(&made);
    let text = words(&made.html());
    for said in [
        "in 1 fewer GPUs were at work than asked for",
        "of the valid ones, with a GPU that was not seen at work 1",
        "did not fit into memory",
        "cannot be vouched for",
        "#% of the CPU time",
        "balanced part of the grid",
        "sums of squares of type II",
    ] {
        assert!(text.contains(said), "{said} is missing");
    }
}

#[test]
fn figures_that_cannot_be_made_say_why() {
    let cpu = Study {
        models: vec![("tiny".into(), 0.1)],
        gpus: vec![0],
        input_lengths: vec![32],
        replicates: 1,
        ..small()
    };
    let made = made(&cpu);
    check(&made);
    let why = |name: &str| {
        let figure = made
            .figures
            .iter()
            .find(|figure| figure.name == name)
            .unwrap();
        figure.caption.clone()
    };
    assert_eq!(
        why("gpu-utilization-by-gpus"),
        "Not drawn: nothing ran on a GPU."
    );
    assert!(
        why("replicates").contains("with one replicate"),
        "{}",
        why("replicates")
    );
    assert!(why("metrics-by-batch-size-and-gpus").contains("two numbers of GPUs"));
    assert!(
        why("factors").contains("Input length has one level"),
        "{}",
        why("factors")
    );
}

#[test]
fn hostile_names_do_no_harm() {
    let names = [
        "<script>alert(1)</script>",
        "\"'&lt;&#x3c;script onload=x",
        "</style></svg></td>-->]]>",
        "comma, semicolon; pipe| back`tick *stars* [link](x) $math$ @everyone #1",
        "\u{202e}desrever \u{0}\u{7}\u{1b}[31m\u{fffe} שלום مرحبا 模型 🚀",
        "",
        " ",
    ];
    for name in names
        .iter()
        .map(|name| (*name).to_owned())
        .chain(["x".repeat(100_000)])
    {
        let study = Study {
            models: vec![(name.clone(), 1.0), (format!("{name}b"), 2.0)],
            batch_sizes: vec![1, 8],
            input_lengths: vec![16],
            ..small()
        };
        let mut rows = study.rows();
        rows[1].valid = Some(false);
        rows[1].invalid_reasons = Some(name.clone());
        rows[2].outcome = Some(Outcome::OutOfMemory);
        rows[2].message = Some(name.clone());
        for row in &mut rows {
            row.dtype.clone_from(&name);
            row.node = Some(name.clone());
        }
        let made = Made::of(&name, &rows, Objectives::default());
        check(&made);
        let page = made.html();
        assert!(page.len() < 1_500_000, "{}", page.len());
        for wrong in ["\u{202e}", "\u{0}", "\u{1b}", "</style></svg>"] {
            assert!(!page.contains(wrong), "{wrong:?}");
        }
        assert_eq!(page.matches("</style>").count(), 1);
    }
}

#[test]
fn degenerate_sweeps_have_reports() {
    let rows = small().rows();
    let one_level = Study {
        batch_sizes: vec![4],
        input_lengths: vec![16],
        output_lengths: vec![16],
        gpus: vec![1],
        models: vec![("one".into(), 1.0)],
        ..small()
    };
    let with = |change: &dyn Fn(&mut Row)| {
        let mut rows = rows.clone();
        rows.iter_mut().for_each(change);
        rows
    };
    let scaled = |by: f64| {
        with(&move |row: &mut Row| {
            for value in [
                &mut row.mean_ttft_ms,
                &mut row.mean_ttlt_ms,
                &mut row.mean_tpot_ms,
                &mut row.output_throughput,
                &mut row.normalized_latency_ms,
                &mut row.output_throughput_per_gpu,
                &mut row.gpu_util_mean_pct,
            ] {
                *value = value.map(|value| value * by);
            }
        })
    };
    let cases: Vec<(&str, Vec<Row>)> = vec![
        ("no row", Vec::new()),
        ("one row", rows[..1].to_vec()),
        ("one level", one_level.rows()),
        (
            "two rows of two models",
            [&rows[..1], &rows[30..31]].concat(),
        ),
        (
            "only failures",
            with(&|row| {
                row.outcome = Some(Outcome::OutOfMemory);
                row.valid = None;
            }),
        ),
        (
            "nothing ended",
            with(&|row| {
                *row = Row {
                    sweep: row.sweep.clone(),
                    trial_index: row.trial_index,
                    model: row.model.clone(),
                    ..Row::default()
                };
            }),
        ),
        ("only invalid", with(&|row| row.valid = Some(false))),
        (
            "all equal",
            with(&|row| {
                row.mean_ttft_ms = Some(1.0);
                row.mean_ttlt_ms = Some(2.0);
                row.mean_tpot_ms = Some(0.5);
                row.output_throughput = Some(3.0);
                row.output_throughput_per_gpu = Some(3.0);
                row.normalized_latency_ms = Some(1.0 / 3.0);
                row.gpu_util_mean_pct = Some(50.0);
                row.gpu_util_max_pct = Some(50.0);
            }),
        ),
        ("zeros", scaled(0.0)),
        ("negative", scaled(-1.0)),
        ("huge", scaled(1e290)),
        ("tiny", scaled(1e-290)),
        (
            "not finite",
            with(&|row| {
                if row.trial_index.is_multiple_of(3) {
                    row.mean_ttft_ms = Some(f64::NAN);
                    row.output_throughput = Some(f64::INFINITY);
                }
            }),
        ),
        (
            "no metric but one",
            with(&|row| {
                row.mean_ttft_ms = None;
                row.mean_tpot_ms = None;
                row.output_throughput = None;
            }),
        ),
        (
            "one batch size of each model",
            rows.iter()
                .filter(|row| (row.batch_size == 1) == row.model.starts_with("small"))
                .cloned()
                .collect(),
        ),
        (
            "largest numbers",
            with(&|row| {
                row.batch_size = u32::MAX;
                row.input_len = u32::MAX;
                row.gpus = u32::MAX - row.gpus;
            }),
        ),
    ];
    for (name, rows) in cases {
        println!("{name}");
        check(&Made::of(name, &rows, objectives()));
    }
}

/// As many trials as a resource may ask for.
#[test]
fn fifty_thousand_rows_have_a_report() {
    let study = Study {
        models: vec![("small".into(), 1.0)],
        input_lengths: vec![16, 256],
        output_lengths: vec![16, 256],
        gpus: vec![1, 2, 4, 6, 8],
        batch_sizes: vec![1, 2, 4, 8, 16],
        replicates: 500,
        invalid_every: 37,
        ..Study::default()
    };
    let made = made(&study);
    assert_eq!(made.summary.counts.trials, 50_000);
    check(&made);
    let text = words(&made.html());
    assert!(text.contains("of 50,000 trials are measured and valid"));
}

#[test]
fn many_levels_stay_within_a_page() {
    let many = Study {
        models: (0..9)
            .map(|at| (format!("model-{at}"), 1.0 + f64::from(at)))
            .collect(),
        batch_sizes: (1..=16).collect(),
        input_lengths: vec![16, 17, 300],
        output_lengths: vec![1, 2],
        gpus: vec![1, 2, 4, 8],
        replicates: 1,
        ..Study::default()
    };
    let made = made(&many);
    check(&made);
    let text = words(&made.html());
    assert!(text.contains("3 more models are in analysis.json only."));
    assert!(text.contains("The first 250 of 3,456"));
}

fn figure<'a>(made: &'a Made, name: &str) -> Option<&'a Figure> {
    made.figures.iter().find(|figure| figure.name == name)
}

#[test]
fn panels_by_lengths_stand_side_by_side_however_many_models_there_are() {
    for (models, columns) in [(1, 2), (2, 2), (3, 3), (4, 2)] {
        let study = Study {
            models: (1..=models)
                .map(|size| (format!("{size}b"), f64::from(size)))
                .collect(),
            ..small()
        };
        let made = made(&study);
        let found = figure(&made, "metrics-by-batch-size-and-lengths").expect("it is made");
        let drawing = found.drawing.as_ref().expect("it is drawn");
        assert_eq!(drawing.panels.len(), 4 * models as usize);
        assert_eq!(drawing.columns, columns, "{models} models");
    }
}

#[test]
fn engines_stand_side_by_side_over_the_same_load() {
    let made = Made::of("servers", &Servers::default().rows(), objectives());
    check(&made);
    let engines = figure(&made, "engines").unwrap();
    // 3 input lengths, each with throughput, TTFT and TPOT.
    assert_eq!(engines.drawing.as_ref().unwrap().panels.len(), 9);
    assert!(
        engines.caption.starts_with(
            "As against llama-cpp, at the same model, lengths and load: an output throughput ×"
        ),
        "{}",
        engines.caption
    );
    let curves = figure(&made, "load-curves").unwrap();
    assert_eq!(curves.drawing.as_ref().unwrap().panels.len(), 6);
    assert!(
        curves
            .table
            .header
            .contains(&"99th percentile of TTFT, ms".into())
    );
    let labels: Vec<&str> = curves
        .drawing
        .as_ref()
        .unwrap()
        .legend
        .iter()
        .map(|key| key.label.as_str())
        .collect();
    assert_eq!(
        labels,
        ["Llama-cpp", "Vllm, maxNumSeqs 16", "Vllm, maxNumSeqs 256"]
    );
    let goodput = figure(&made, "goodput").unwrap();
    assert!(
        goodput.caption.contains("requests/s"),
        "{}",
        goodput.caption
    );
    // Nobody chose a batch size, and nothing has a rate.
    let seen = words(&made.html());
    assert!(
        // The glossary alone names the other load.
        !seen.contains("batch size 1,") && seen.matches("request rate").count() == 1,
        "{seen}"
    );
}

#[test]
fn saturated_points_are_marked() {
    let made = Made::of("servers", &Servers::open().rows(), Objectives::default());
    check(&made);
    let curves = figure(&made, "load-curves").unwrap();
    let legend = &curves.drawing.as_ref().unwrap().legend;
    assert!(legend.last().unwrap().label.starts_with("saturated"));
    assert_eq!(curves.table.header.last().unwrap(), "saturated trials");
    assert!(
        curves
            .table
            .rows
            .iter()
            .any(|row| row.last().unwrap() == "3")
    );
}

#[test]
fn batches_of_one_engine_have_no_figures_of_servers() {
    let made = made(&small());
    for name in ["engines", "load-curves", "goodput"] {
        assert_eq!(figure(&made, name), None, "{name}");
    }
}

#[test]
fn numbers_of_invalid_trials_are_shown_and_marked() {
    let mut rows = small().rows();
    for row in &mut rows {
        row.valid = Some(false);
        row.invalid_reasons = Some(
            "other processes took 30.0 % of the CPU time that was needed (at most 10 %)".into(),
        );
    }
    let mut made = Made::of("busy", &rows, Objectives::default());
    check(&made);
    let text = words(&made.html());
    for said in [
        "160 of 160 measured trials cannot be vouched for, because other processes took CPU time",
        "What to do: end them",
        "What the invalid trials say is shown with †",
        "† is the mean of trials that cannot be vouched for",
    ] {
        assert!(text.contains(said), "{said} is missing in\n{text}");
    }
    assert!(made.html().contains("<td class=\"n doubt\">"));
    for nothing in ["Not drawn", "What matters", "How it behaves", ": none."] {
        assert!(!text.contains(nothing), "{nothing} in\n{text}");
    }
    assert!(made.markdown().contains('†'));
    // Valid trials alone.
    made.doubtful.clear();
    check(&made);
    assert!(!made.html().contains('†') && !made.markdown().contains('†'));
}

#[test]
fn why_trials_have_no_measurement_is_said_the_most_frequent_reason_first() {
    let mut rows = small().rows();
    let lacks = |at: usize| format!("about {} MiB needed, 512 MiB available", 800 + at);
    for (at, row) in rows.iter_mut().enumerate().take(12) {
        let (outcome, message) = match at {
            0 => (
                Outcome::Unsupported,
                "12 heads do not divide by 5".to_owned(),
            ),
            1..=3 => (Outcome::OutOfMemory, "vllm: CUDA out of memory".to_owned()),
            _ => (Outcome::OutOfMemory, lacks(at)),
        };
        (row.outcome, row.message) = (Some(outcome), Some(message));
    }
    let made = Made::of("lacking", &rows, Objectives::default());
    check(&made);
    let text = words(&made.html());
    let first = format!(
        "12 trials have no measurement, 8 of them for this reason: {}. What to do: give it more memory \
         (runner.resources.limits.memory)",
        lacks(4)
    );
    assert!(text.contains(&first), "{text}");
    let (_, table) = text.split_once("Why these have none").expect("a table");
    let places = [&*lacks(4), "CUDA out of memory", "12 heads"].map(|said| table.find(said));
    assert!(places.is_sorted() && places[0].is_some(), "{table}");
    assert!(table.contains("use more GPUs or larger ones"), "{table}");
    assert!(!table.contains(&lacks(5)), "one of each: {table}");
}

#[test]
fn one_invalid_combination_is_marked_among_valid_ones() {
    let mut rows = small().rows();
    let first = rows[0].levels();
    for row in rows.iter_mut().filter(|row| row.levels() == first) {
        row.valid = Some(false);
    }
    let made = Made::of("made-up", &rows, Objectives::default());
    check(&made);
    assert_eq!(made.doubtful.len(), 1);
    let page = made.html();
    let (_, combinations) = page.split_once("id=\"combinations\"").unwrap();
    assert_eq!(combinations.matches(" doubt\">").count(), 5);
    assert!(
        !page
            .split_once("id=\"trust\"")
            .unwrap()
            .0
            .contains(" doubt\">")
    );
}
