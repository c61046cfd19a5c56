//! The table of the factors: what each is, and where spec and combination have it.

use super::{Level, Number};
use crate::{combination::Combination, engine::Engine, factors::Factors, limits};

/// Whether the levels of a factor can be computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They are numbers, and effects go per doubling.
    Number,
    /// They are names.
    Category,
}

/// The scope of a factor: what a change of level takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A fresh start of the engine: trials that share a start are judged against the variation between starts.
    Start,
    /// Another load on the same engine.
    Load,
}

/// Who decides on the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A person who configures: the best is sought over choices.
    Choice,
    /// Whoever sends requests: the best is sought for a given workload.
    Workload,
}

/// A level that stands where nothing is said: of factors that came after the first release, so that keys and
/// documents from before stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Implied {
    /// A number.
    Number(u32),
    /// A name.
    Text(&'static str),
    /// No level at all: 0 stands for it, and an empty cell in tables.
    Nothing,
}

/// The levels that a factor can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Whole numbers from the first to the second.
    Range(u32, u32),
    /// Numbers above 0, up to this.
    Above0(u32),
    /// Names of at most this many characters.
    Names(u32),
    /// These names.
    OneOf(&'static [&'static str]),
}

/// A factor of the table.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// The name in specs, documents and the status, as `batchSize`.
    pub name: &'static str,
    /// The name in text, as `batch size`.
    pub title: &'static str,
    /// The head of its column in a terminal, as `batch`.
    pub short: &'static str,
    /// The column of the tables, as `batch_size`.
    pub column: &'static str,
    /// The unit of the levels; empty where they have none.
    pub unit: &'static str,
    /// The description of the column.
    pub doc: &'static str,
    /// Whether the levels can be computed with.
    pub kind: Kind,
    /// The scope of a change of level.
    pub scope: Scope,
    /// Who decides on the level.
    pub role: Role,
    /// The level where nothing is said; none for factors that every document names.
    pub implied: Option<Implied>,
    /// The levels that it can have.
    pub allowed: Allowed,
    /// The most levels in one design.
    pub max_levels: u32,
    /// Of a factor whose levels a spec may leave out, without that the schema fills them in: whether it has them. Else
    /// a default stands for them.
    pub given: Option<fn(&Factors) -> bool>,
    /// The levels in a spec, defaults filled in; never empty for a spec that `validate` accepts.
    pub(super) levels: fn(&Factors) -> Vec<Level>,
    /// Sets the level at a position of `levels`.
    pub(super) set: fn(&mut Combination, &Factors, usize),
    /// The level of a combination.
    pub(super) level: fn(&Combination) -> Level,
}

/// The accessors of spec and combination for a factor whose levels are whole numbers, as members of its row.
macro_rules! numbers {
    // Of a factor that may be left out: 1 stands for it then.
    ($field:ident or 1, $($member:tt)*) => {
        Builtin {
            levels: |factors| numbers(or_one(&factors.$field)),
            set: |combination, factors, at| {
                combination.$field = or_one(&factors.$field)[at].max(0).unsigned_abs();
            },
            level: |combination| Level::from(combination.$field),
            given: Some(|factors| !factors.$field.is_empty()),
            implied: Some(Implied::Number(1)),
            $($member)*
        }
    };
    // Of a factor that may be left out: 0 stands for it then.
    ($field:ident or 0, $($member:tt)*) => {
        Builtin {
            levels: |factors| numbers(or_zero(&factors.$field)),
            set: |combination, factors, at| {
                combination.$field = or_zero(&factors.$field)[at].max(0).unsigned_abs();
            },
            level: |combination| Level::from(combination.$field),
            given: Some(|factors| !factors.$field.is_empty()),
            $($member)*
        }
    };
    ($field:ident, $($member:tt)*) => {
        Builtin {
            levels: |factors| numbers(&factors.$field),
            set: |combination, factors, at| {
                combination.$field = factors.$field[at].max(0).unsigned_abs();
            },
            level: |combination| Level::from(combination.$field),
            $($member)*
        }
    };
}

/// Every factor, in the order of a combination's mixed-radix index (the last changes fastest). A factor that is added
/// at its implied level alone changes no index.
pub const TABLE: &[Builtin] = &[
    Builtin {
        name: "engine",
        title: "engine",
        short: "engine",
        column: "engine",
        unit: "",
        doc: "The engine's level.",
        kind: Kind::Category,
        scope: Scope::Start,
        role: Role::Choice,
        implied: Some(Implied::Text(Engine::CANDLE)),
        allowed: Allowed::Names(limits::ENGINE_NAME),
        max_levels: limits::ENGINES,
        given: Some(|factors| !factors.engine.is_empty()),
        levels: |factors| {
            let named = factors.engines();
            named
                .iter()
                .map(|engine| Level::from(engine.name.as_str()))
                .collect()
        },
        set: |combination, factors, at| combination.engine = factors.engines()[at].clone(),
        level: |combination| Level::from(combination.engine.name.as_str()),
    },
    Builtin {
        name: "model",
        title: "model",
        short: "model",
        column: "model",
        unit: "",
        doc: "The model's level.",
        kind: Kind::Category,
        scope: Scope::Start,
        role: Role::Workload,
        implied: None,
        allowed: Allowed::Names(limits::MODEL_NAME),
        max_levels: limits::MODELS,
        given: None,
        levels: |factors| {
            let named = factors.model.iter();
            named
                .map(|model| Level::from(model.name.as_str()))
                .collect()
        },
        set: |combination, factors, at| combination.model = factors.model[at].clone(),
        level: |combination| Level::from(combination.model.name.as_str()),
    },
    numbers! {
        batch_size,
        name: "batchSize",
        title: "batch size",
        short: "batch",
        column: "batch_size",
        unit: "sequences",
        doc: "b: sequences in a batch; 1 where requests come one by one.",
        kind: Kind::Number,
        scope: Scope::Load,
        role: Role::Choice,
        implied: None,
        allowed: Allowed::Range(1, limits::BATCH_SIZE),
        max_levels: limits::LEVELS,
        given: None,
    },
    numbers! {
        input_length,
        name: "inputLength",
        title: "input length",
        short: "in",
        column: "input_len",
        unit: "tokens",
        doc: "s: input tokens of each sequence.",
        kind: Kind::Number,
        scope: Scope::Load,
        role: Role::Workload,
        implied: None,
        allowed: Allowed::Range(1, limits::LENGTH),
        max_levels: limits::LEVELS,
        given: None,
    },
    numbers! {
        output_length,
        name: "outputLength",
        title: "output length",
        short: "out",
        column: "output_len",
        unit: "tokens",
        doc: "n: output tokens of each sequence.",
        kind: Kind::Number,
        scope: Scope::Load,
        role: Role::Workload,
        implied: None,
        allowed: Allowed::Range(1, limits::LENGTH),
        max_levels: limits::LEVELS,
        given: None,
    },
    numbers! {
        gpus,
        name: "gpus",
        title: "GPUs",
        short: "gpus",
        column: "gpus",
        unit: "",
        doc: "Devices of the engine; 0 for CPU.",
        kind: Kind::Number,
        scope: Scope::Start,
        role: Role::Choice,
        implied: None,
        allowed: Allowed::Range(0, limits::GPUS),
        max_levels: limits::LEVELS,
        given: None,
    },
    numbers! {
        pipeline_parallel or 1,
        name: "pipelineParallel",
        title: "pipeline stages",
        short: "pp",
        column: "pipeline_parallel",
        unit: "",
        doc: "Stages that the model's layers are divided into, one after another.",
        kind: Kind::Number,
        scope: Scope::Start,
        role: Role::Choice,
        allowed: Allowed::Range(1, limits::GPUS),
        max_levels: limits::PARALLEL,
    },
    numbers! {
        data_parallel or 1,
        name: "dataParallel",
        title: "replicas of the model",
        short: "dp",
        column: "data_parallel",
        unit: "",
        doc: "Replicas of the model that divide the sequences among them.",
        kind: Kind::Number,
        scope: Scope::Start,
        role: Role::Choice,
        allowed: Allowed::Range(1, limits::GPUS),
        max_levels: limits::PARALLEL,
    },
    Builtin {
        name: "dtype",
        title: "data type",
        short: "dtype",
        column: "dtype",
        unit: "",
        doc: "Data type of the weights; cache and activations have the same, or f32 on CPU and where weights are quantized.",
        kind: Kind::Category,
        scope: Scope::Start,
        role: Role::Choice,
        implied: None,
        allowed: Allowed::OneOf(&["f32", "bf16", "f16", "q4_0", "q8_0"]),
        max_levels: limits::DTYPES,
        given: Some(|factors| !factors.dtype.is_empty()),
        levels: |factors| {
            let dtypes = factors.dtypes();
            dtypes
                .iter()
                .map(|dtype| Level::from(dtype.name()))
                .collect()
        },
        set: |combination, factors, at| combination.dtype = factors.dtypes()[at],
        level: |combination| Level::from(combination.dtype.name()),
    },
    numbers! {
        concurrency or 0,
        name: "concurrency",
        title: "concurrency",
        short: "conc",
        column: "concurrency",
        unit: "requests",
        doc: "Requests in flight: each stream sends its next one when its last is done; empty where the load is another one.",
        kind: Kind::Number,
        scope: Scope::Load,
        role: Role::Choice,
        implied: Some(Implied::Nothing),
        allowed: Allowed::Range(1, limits::CONCURRENCY),
        max_levels: limits::LEVELS,
    },
    Builtin {
        name: "requestRate",
        title: "request rate",
        short: "rate",
        column: "request_rate",
        unit: "requests/s",
        doc: "Requests that come a second, at random (Poisson); empty where the load is another one.",
        kind: Kind::Number,
        scope: Scope::Load,
        role: Role::Workload,
        implied: Some(Implied::Nothing),
        allowed: Allowed::Above0(limits::REQUEST_RATE),
        max_levels: limits::LEVELS,
        given: Some(|factors| !factors.request_rate.is_empty()),
        levels: |factors| {
            let rates = rates(factors);
            rates.iter().copied().map(Level::Number).collect()
        },
        set: |combination, factors, at| combination.request_rate = rates(factors)[at],
        level: |combination| Level::Number(combination.request_rate),
    },
    Builtin {
        name: "prefixShare",
        title: "shared prefix",
        short: "prefix",
        column: "prefix_share",
        unit: "%",
        doc: "Percent of the input tokens that all requests of a trial have in common.",
        kind: Kind::Number,
        scope: Scope::Load,
        role: Role::Workload,
        implied: Some(Implied::Number(0)),
        allowed: Allowed::Range(0, 100),
        max_levels: limits::LEVELS,
        given: Some(|factors| !factors.prefix_share.is_empty()),
        levels: |factors| numbers(or_zero(&factors.prefix_share)),
        set: |combination, factors, at| {
            let given = factors.prefix_share.get(at);
            combination.prefix_share = given.map(|share| share.max(&0).unsigned_abs());
        },
        level: |combination| Level::from(combination.prefix_share.unwrap_or(0)),
    },
];

fn or_zero(levels: &[i32]) -> &[i32] {
    if levels.is_empty() { &[0] } else { levels }
}

fn rates(factors: &Factors) -> &[Number] {
    if factors.request_rate.is_empty() {
        &[Number::ZERO]
    } else {
        &factors.request_rate
    }
}

fn or_one(levels: &[i32]) -> &[i32] {
    if levels.is_empty() { &[1] } else { levels }
}

fn numbers(levels: &[i32]) -> Vec<Level> {
    let numbers = levels.iter();
    numbers
        .map(|&level| Level::from(level.max(0).unsigned_abs()))
        .collect()
}
