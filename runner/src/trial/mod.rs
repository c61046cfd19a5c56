//! One trial, from its request to its record. A sweep starts a process that serves requests ([`serve`], in the words of
//! [`protocol`]); its [`session`] measures each ([`measure`] is the loop of iterations) and says whether the measurement
//! can be vouched for ([`verdict`]); [`recording`] makes the record.

pub mod clock;
pub mod measure;
pub mod protocol;
mod quality;
pub mod recording;
pub mod roofline;
pub mod serve;
pub mod session;
pub mod verdict;
