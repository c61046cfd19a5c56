//! Whole sweeps through the built program, on models that take milliseconds: what a user does, and what goes wrong.

mod capacity;
mod commands;
mod comparisons;
mod confirm;
mod endpoints;
mod expectations;
mod faults;
mod fetch;
mod gateway;
mod interruptions;
mod llama;
mod parameters;
mod place;
mod pods;
mod quality;
mod quiet;
mod reports;
mod results;
mod servers;
mod sessions;
mod until;
