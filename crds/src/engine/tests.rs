use serde_json::json;

use super::{
    command::{CommandLine, Place, command_line, references, request_members},
    preset::{Preset, TABLE, When},
    *,
};
use crate::{
    design::{Combination, Setting},
    factor::Level,
    spec::Dtype,
};

fn server(of: Value) -> Server {
    serde_json::from_value(of).expect("a server")
}

fn place() -> Place {
    Place {
        model: "/models/m".into(),
        port: 8000,
        max_length: 640,
        max_concurrency: 8,
        cpus: 2,
    }
}

fn setting(level: Level) -> Setting {
    Setting {
        level,
        env: String::new(),
        flag: String::new(),
        field: String::new(),
    }
}

fn command(of: Value, change: impl FnOnce(&mut Combination)) -> CommandLine {
    let mut combination = Combination {
        gpus: 1,
        dtype: Dtype::Bf16,
        ..Combination::default()
    };
    change(&mut combination);
    command_line(&server(of), &combination, &place()).expect("a command line")
}

#[test]
fn every_preset_has_a_row_and_names_what_there_is() {
    let all = [
        Preset::Vllm,
        Preset::Sglang,
        Preset::LlamaCpp,
        Preset::TensorrtLlm,
        Preset::Openai,
    ];
    assert_eq!(all.len(), TABLE.len());
    for preset in all {
        let row = preset.row();
        let values = row.args.iter().filter_map(|argument| argument.value);
        for text in row.command.iter().copied().chain(values) {
            for name in references(text) {
                assert!(command::NAMES.contains(&name), "{name}");
            }
        }
        for argument in row.args {
            let names = argument.names;
            assert!(names.iter().all(|name| name.starts_with('-')), "{names:?}");
            if let When::Above1(of) = argument.when {
                assert!(command::NAMES.contains(&of), "{of}");
            }
        }
        let interface = InterfaceOverrides::default().over(row);
        for value in interface.request.values().filter_map(Value::as_str) {
            for name in references(value) {
                assert!(command::REQUEST_NAMES.contains(&name), "{name}");
            }
        }
    }
}

#[test]
fn a_preset_is_started_as_its_documentation_has_it() {
    let all = |preset| {
        command(json!({ "preset": preset }), |combination| {
            combination.gpus = 4;
            combination.pipeline_parallel = 2;
        })
    };
    let text = |line: CommandLine| {
        let env = line
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value} "));
        format!("{}{}", env.collect::<String>(), line.argv.join(" "))
    };
    let lines = ["vllm", "sglang", "llamaCpp", "tensorrtLlm"].map(|preset| text(all(preset)));
    insta::assert_snapshot!(lines.join("\n"), @r"
    HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 vllm serve /models/m --host 127.0.0.1 --port 8000 --served-model-name model --dtype bfloat16 --max-model-len 640 --tensor-parallel-size 2 --pipeline-parallel-size 2 --no-enable-prefix-caching
    HF_HUB_OFFLINE=1 python3 -m sglang.launch_server --model-path /models/m --host 127.0.0.1 --port 8000 --served-model-name model --dtype bfloat16 --context-length 640 --tp-size 2 --pp-size 2 --enable-metrics --disable-radix-cache
    llama-server --model /models/m --host 127.0.0.1 --port 8000 --parallel 8 --ctx-size 5120 --threads 2 --n-gpu-layers 999 --metrics --no-webui --no-cache-prompt --cache-ram 0
    HF_HUB_OFFLINE=1 trtllm-serve /models/m --backend pytorch --host 127.0.0.1 --port 8000 --max_seq_len 640 --tp_size 2 --pp_size 2
    ");
}

#[test]
fn a_server_that_may_be_any_says_what_any_of_them_does() {
    for row in TABLE.iter().filter(|row| row.preset != Preset::Openai) {
        assert!(!row.out_of_memory.is_empty() && !row.unreadable.is_empty());
        for word in row.out_of_memory {
            let line = format!("E: {word}!");
            assert!(row.tells_of_memory(&line) && Preset::Openai.row().tells_of_memory(&line));
        }
        for word in row.unreadable {
            let line = format!("E: {word}!");
            let any = Preset::Openai.row();
            assert!(row.tells_of_unreadable(&line) && any.tells_of_unreadable(&line));
        }
    }
    // And each of the others its own alone.
    let line = "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.";
    assert!(Preset::Sglang.row().tells_of_memory(line));
    assert!(!Preset::LlamaCpp.row().tells_of_memory(line));
}

#[test]
fn on_the_cpu_a_server_leaves_one_to_the_client() {
    let threads = |cpus: u32, gpus: u32| {
        let combination = Combination {
            gpus,
            ..Combination::default()
        };
        let server = server(json!({"preset": "llamaCpp"}));
        let line = command_line(&server, &combination, &Place { cpus, ..place() }).unwrap();
        let at = line.argv.iter().position(|of| of == "--threads").unwrap();
        line.argv[at + 1].clone()
    };
    assert_eq!(
        [(1, 0), (2, 0), (16, 0), (16, 1)].map(|(cpus, gpus)| threads(cpus, gpus)),
        ["1", "1", "15", "16"]
    );
}

#[test]
fn an_argument_of_the_user_stands_in_place_of_the_presets() {
    let line = command(
        json!({
            "preset": "vllm",
            "command": ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "$(model)"],
            "args": ["--max-model-len=2048", "-tp", "1", "--enable-prefix-caching"],
        }),
        |combination| combination.gpus = 2,
    );
    assert_eq!(
        line.argv.join(" "),
        "python -m vllm.entrypoints.openai.api_server --model /models/m --host 127.0.0.1 --port 8000 \
         --served-model-name model --dtype bfloat16 --max-model-len=2048 -tp 1 --enable-prefix-caching"
    );
}

#[test]
fn parameters_go_where_they_are_named() {
    let line = command(
        json!({
            "preset": "openai",
            "command": ["serve", "--seqs", "$(maxNumSeqs)", "--blocks=$(blocks)", "--other", "$(absent)", "-x=$(absent)", "$$(kept)"],
            "env": [{ "name": "SEQS", "value": "$(maxNumSeqs)" }, { "name": "NONE", "value": "$(absent)" }],
        }),
        |combination| {
            let mut on = setting(Level::Boolean(true));
            on.flag = "--eager".into();
            let mut off = setting(Level::Boolean(false));
            off.flag = "--never".into();
            let mut flag = setting(Level::from(3));
            flag.flag = "--depth".into();
            let mut env = setting(Level::from("x"));
            env.env = "MODE".into();
            combination.parameters = [
                ("maxNumSeqs", setting(Level::from(16))),
                ("blocks", setting(Level::parse("0.5"))),
                ("on", on),
                ("off", off),
                ("depth", flag),
                ("mode", env),
            ]
            .map(|(name, setting)| (name.to_owned(), setting))
            .into();
        },
    );
    assert_eq!(
        line.argv.join(" "),
        "serve --seqs 16 --blocks=0.5 $(kept) --depth 3 --eager"
    );
    let env = [("SEQS", "16"), ("MODE", "x")];
    assert_eq!(
        line.env,
        env.map(|(name, value)| (name.into(), value.into()))
    );
}

#[test]
fn what_cannot_be_started_is_told() {
    let combination = Combination {
        dtype: Dtype::Q4_0,
        ..Combination::default()
    };
    let why = |of| command_line(&server(of), &combination, &place()).unwrap_err();
    assert_eq!(
        why(json!({ "preset": "vllm" })),
        "vLLM has no data type q4_0: it has f32, bf16, f16"
    );
    assert_eq!(
        why(json!({ "preset": "openai" })),
        "nobody says what program to start for OpenAI's API: give server.command"
    );
}

#[test]
fn requests_have_the_members_that_the_server_knows() {
    let of = |engine: Value, change: fn(&mut Combination)| {
        let engine: Engine = serde_json::from_value(engine).unwrap();
        let mut combination = Combination {
            output_length: 128,
            engine,
            ..Combination::default()
        };
        change(&mut combination);
        let interface = combination.engine.interface().unwrap();
        Value::Object(request_members(&interface, &combination))
    };
    let vllm = json!({ "name": "v", "server": { "preset": "vllm" } });
    assert_eq!(
        of(vllm, |_| ()),
        json!({
            "ignore_eos": true, "min_tokens": 128, "return_token_ids": true,
            "stream_options": { "include_usage": true, "continuous_usage_stats": true },
        })
    );
    let llama = json!({ "name": "l", "endpoint": {
        "url": "http://llama:8080", "preset": "llamaCpp",
        "interface": { "request": { "timings_per_token": null, "n_probs": 0 } },
    } });
    assert_eq!(
        of(llama, |combination| {
            combination.prefix_share = Some(0);
            let mut field = setting(Level::from(40));
            field.field = "top_k".into();
            combination.parameters.insert("topK".into(), field);
        }),
        json!({
            "ignore_eos": true, "cache_prompt": true, "n_probs": 0, "top_k": 40,
            "stream_options": { "include_usage": true },
        })
    );
}

proptest::proptest! {
    /// Without a name in it, a text is what it was.
    #[test]
    fn plain_texts_stay(text in "[a-z$()= -]{0,24}") {
        let plain = references(&text).next().is_none() && !text.contains("$$(");
        if plain {
            let line = command(json!({ "preset": "openai", "command": ["x", text] }), |_| ());
            proptest::prop_assert_eq!(line.argv, vec!["x".to_owned(), text]);
        }
    }
}
