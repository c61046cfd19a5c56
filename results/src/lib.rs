//! What a trial leaves behind: the record (`record`), the metrics' definitions (`metrics`), and what is made of
//! many records: tables, summary and manifest. Pure: no Kubernetes, no model, no store.

pub mod record;
