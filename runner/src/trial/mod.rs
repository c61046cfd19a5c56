//! One trial, from its request to its record. A sweep starts a process that serves requests ([`serve`], in the words of
//! [`protocol`]); its [`session`] goes through the steps of each: the [`subject`] is read from the request, an
//! [`engine`] is made ready, the loop of [`measure`] (or, where they do not come in batches, of [`requests`]; where their
//! load is searched, of [`capacity`]) times it under a [`watch`], the [`verdict`] says whether that can be vouched for, and
//! [`recording`] makes the record.

pub mod asked;
pub mod bracket;
pub mod capacity;
pub mod clock;
pub mod engine;
pub mod host;
pub mod measure;
pub mod protocol;
mod quality;
pub mod recording;
pub mod requests;
pub mod roofline;
pub mod serve;
pub mod session;
pub mod start;
pub mod subject;
pub mod verdict;
pub mod watch;
