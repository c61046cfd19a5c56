//! Trials in the forms of other projects.

pub mod llm_d;
