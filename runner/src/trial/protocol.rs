//! The protocol between a sweep and the process that measures for it: one JSON document a line, requests on the
//! child's standard input, answers on its standard output. The requests of a pod in a cluster are another matter: see
//! `inferbench_crds::contract`.

pub use inferbench_crds::contract::{StoreAt, TrialRequest};
use inferbench_crds::spec::Dtype;
use inferbench_engine::ceilings::{Ceilings, roofline::ModelShape};
use serde::{Deserialize, Serialize};

use crate::models::WeightsAt;

/// A request to a measuring process.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// Measure a trial and store its record.
    Trial(Box<Measure>),
    /// Measure the ceilings of this machine, or of its GPU.
    Ceilings {
        /// The data type of the matrix products.
        dtype: Dtype,
        /// The model whose products are among those tried.
        shape: ModelShape,
        /// 0 for the CPU; of GPUs the first is measured, for all of them are taken to be alike.
        #[serde(default)]
        gpus: u32,
    },
}

/// One trial to measure, with what whoever asks has found out already.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Measure {
    /// The trial.
    #[serde(flatten)]
    pub trial: TrialRequest,
    /// Where its model lies, once it is resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightsAt>,
    /// The ceilings that it is judged by; measured first where they are absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ceilings: Option<Ceilings>,
}

/// The answer of a measuring process.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// The record is stored, whatever the outcome.
    Stored {
        /// The trial's key.
        key: String,
        /// Ceilings that took the place of those that it was to be judged by: it had exceeded them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ceilings: Option<Ceilings>,
    },
    /// There is no record.
    Failed {
        /// Why.
        message: String,
        /// Whether trying again cannot help.
        permanent: bool,
    },
    /// The ceilings.
    Ceilings(Ceilings),
}
