//! The results of trials: the record (`record`), whether a document is one (`check`), its key (`key`), the
//! metrics' definitions (`metrics`), and what is made of many records: tables, summary, analysis, figures, report and
//! manifest. Pure: no Kubernetes, no model, no store.

pub mod analysis;
pub mod beside;
pub mod best;
pub mod capacity;
pub mod check;
pub mod columns;
pub mod compare;
pub mod confirm;
pub mod counts;
pub mod export;
pub mod figures;
#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
pub mod import;
pub mod interval;
pub mod key;
mod load_verdict;
pub mod looks;
pub mod manifest;
pub mod metrics;
pub mod numbers;
pub mod record;
mod record_v1;
pub mod report;
pub mod row;
pub mod sample;
pub mod status;
pub mod stopping;
pub mod summary;
pub mod tables;
pub mod validity;
