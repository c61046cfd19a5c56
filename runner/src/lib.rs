//! The runner: measures trials, alone or as a whole sweep on one machine, and collects what they leave.
//!
//! The `inferbench` binary is a thin shell around this library, so that tests reach its parts. From the bottom up:
//! [`machine`], [`process`], [`store`], [`models`] and [`load`] (the client of servers) know nothing of trials;
//! [`telemetry`] samples what a trial uses; [`backend`] is the port to what is measured; [`trial`] measures one,
//! [`sweep`] all of them on one machine, [`pod`] those of a Job; [`fetch`] brings what a cluster has collected here;
//! [`commands`] is the command line.

pub mod backend;
mod causes;
pub mod cli;
pub mod commands;
pub mod fetch;
pub mod load;
pub mod machine;
pub mod models;
pub mod pod;
pub mod process;
pub mod store;
pub mod sweep;
pub mod telemetry;
mod tls;
pub mod trial;
