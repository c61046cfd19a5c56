//! In what shape objects are shown: whole, their metadata alone, or as rows of a table.

use std::borrow::Cow;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    json::{at, list, number, text},
    kinds::Kind,
    read::Page,
    request::Shape,
    store::Stored,
    write::presented,
};

/// One object. A table of its own has a heading where it is the first of several.
pub(crate) fn object(
    kind: &Kind,
    stored: &Stored,
    shape: Shape,
    heading: bool,
    now: Timestamp,
) -> Value {
    let value = presented(kind, stored);
    match shape {
        Shape::Metadata => metadata(&value),
        Shape::Whole | Shape::Table => shaped(kind, value.into_owned(), shape, heading, now),
    }
}

/// The same, of an object that is not stored.
pub(crate) fn shaped(
    kind: &Kind,
    value: Value,
    shape: Shape,
    heading: bool,
    now: Timestamp,
) -> Value {
    match shape {
        Shape::Whole => value,
        Shape::Metadata => metadata(&value),
        Shape::Table => {
            let version = json!({ "resourceVersion": text(&value, "metadata.resourceVersion") });
            table(kind, &version, &[value], heading, now)
        }
    }
}

fn metadata(value: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"] })
}

/// A page of a list.
pub(crate) fn page(kind: &Kind, page: &Page, shape: Shape, now: Timestamp) -> Value {
    let items = page.items.iter().map(|stored| presented(kind, stored));
    match shape {
        Shape::Whole => {
            let items = items.map(|item| {
                let mut item = item.into_owned();
                if let Some(map) = item.as_object_mut().filter(|_| kind.custom.is_none()) {
                    map.remove("apiVersion");
                    map.remove("kind");
                }
                item
            });
            listed(&kind.list_kind, &kind.api_version(), page, items.collect())
        }
        Shape::Metadata => {
            let items = items.map(|item| metadata(&item)).collect();
            let kind = "PartialObjectMetadataList";
            listed(kind, "meta.k8s.io/v1", page, items)
        }
        Shape::Table => {
            let items: Vec<Value> = items.map(Cow::into_owned).collect();
            table(kind, &page.metadata(), &items, true, now)
        }
    }
}

/// The items are moved into it: `json!` would copy them.
fn listed(kind: &str, api_version: &str, page: &Page, items: Vec<Value>) -> Value {
    let mut list = json!({
        "kind": kind,
        "apiVersion": api_version,
        "metadata": page.metadata(),
    });
    list["items"] = Value::Array(items);
    list
}

/// How a cell is read from an object, at some time.
type Cell = Box<dyn Fn(&Value, Timestamp) -> Value>;

/// A column: its name, its type, its priority, and how to read it.
struct Column {
    name: String,
    kind: String,
    priority: i64,
    cell: Cell,
}

fn column(name: &str, kind: &str, cell: impl Fn(&Value, Timestamp) -> Value + 'static) -> Column {
    Column {
        name: name.into(),
        kind: kind.into(),
        priority: 0,
        cell: Box::new(cell),
    }
}

fn path(name: &str, path: &'static str) -> Column {
    column(name, "string", move |object, _| text(object, path).into())
}

/// Objects as `kubectl get` prints them.
pub(crate) fn table(
    kind: &Kind,
    metadata: &Value,
    items: &[Value],
    heading: bool,
    now: Timestamp,
) -> Value {
    let columns = columns(kind);
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let cells: Vec<Value> = columns
                .iter()
                .map(|column| (column.cell)(item, now))
                .collect();
            json!({ "cells": cells, "object": self::metadata(item) })
        })
        .collect();
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({
                "name": column.name,
                "type": column.kind,
                "format": format,
                "description": "",
                "priority": column.priority,
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": if heading { definitions.into() } else { Value::Null },
        "rows": rows,
    })
}

fn columns(kind: &Kind) -> Vec<Column> {
    let mut columns = vec![column("Name", "string", |object, _| {
        object["metadata"]["name"].clone()
    })];
    if let Some(custom) = &kind.custom {
        columns.extend(custom.columns.iter().map(of_definition));
        if custom.columns.is_empty() {
            columns.push(age());
        }
        return columns;
    }
    match kind.plural.as_str() {
        "pods" => {
            columns.push(column("Ready", "string", |pod, _| {
                let statuses = list(pod, "status.containerStatuses");
                let ready = statuses
                    .iter()
                    .filter(|status| status["ready"] == true)
                    .count();
                format!("{ready}/{}", list(pod, "spec.containers").len()).into()
            }));
            columns.push(column("Status", "string", |pod, _| pod_status(pod).into()));
            columns.push(column("Restarts", "string", |pod, _| {
                let counts = list(pod, "status.containerStatuses").iter();
                let count: i64 = counts
                    .filter_map(|status| number(status, "restartCount"))
                    .sum();
                count.to_string().into()
            }));
        }
        "jobs" => {
            columns.push(column("Status", "string", |job, _| job_status(job).into()));
            columns.push(column("Completions", "string", |job, _| {
                let done = number(job, "status.succeeded").unwrap_or_default();
                format!("{done}/{}", number(job, "spec.completions").unwrap_or(1)).into()
            }));
            columns.push(column("Duration", "string", |job, now| {
                let time = |path| text(job, path).parse::<Timestamp>().ok();
                let Some(start) = time("status.startTime") else {
                    return "".into();
                };
                duration(start, time("status.completionTime").unwrap_or(now)).into()
            }));
        }
        "namespaces" => columns.push(path("Status", "status.phase")),
        "nodes" => columns.push(column("Status", "string", |node, _| {
            let ready = list(node, "status.conditions")
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            if ready { "Ready" } else { "NotReady" }.into()
        })),
        "persistentvolumeclaims" => {
            columns.push(path("Status", "status.phase"));
            columns.push(path("Volume", "spec.volumeName"));
        }
        "configmaps" | "secrets" => columns.push(column("Data", "string", |object, _| {
            object["data"]
                .as_object()
                .map_or(0, serde_json::Map::len)
                .into()
        })),
        "leases" => columns.push(path("Holder", "spec.holderIdentity")),
        "events" => {
            columns.clear();
            columns.push(column("Last Seen", "string", |event, now| {
                let times = [
                    "series.lastObservedTime",
                    "lastTimestamp",
                    "deprecatedLastTimestamp",
                    "eventTime",
                    "metadata.creationTimestamp",
                ];
                let time = times
                    .iter()
                    .find_map(|path| text(event, path).parse::<Timestamp>().ok());
                time.map_or_else(|| "<unknown>".into(), |time| duration(time, now))
                    .into()
            }));
            columns.push(path("Type", "type"));
            columns.push(path("Reason", "reason"));
            columns.push(column("Object", "string", |event, _| {
                let about = at(event, "involvedObject").or_else(|| at(event, "regarding"));
                let about = about.cloned().unwrap_or_default();
                format!(
                    "{}/{}",
                    text(&about, "kind").to_lowercase(),
                    text(&about, "name")
                )
                .into()
            }));
            columns.push(column("Message", "string", |event, _| {
                let message = at(event, "message").or_else(|| at(event, "note"));
                message.cloned().unwrap_or_default()
            }));
            return columns;
        }
        "customresourcedefinitions" => {
            columns.push(column("Created At", "date", |object, _| {
                object["metadata"]["creationTimestamp"].clone()
            }));
            return columns;
        }
        _ => {}
    }
    columns.push(age());
    columns
}

fn age() -> Column {
    column("Age", "string", |object, now| {
        since(text(object, "metadata.creationTimestamp"), now)
    })
}

fn since(time: &str, now: Timestamp) -> Value {
    match time.parse::<Timestamp>() {
        Ok(time) => duration(time, now).into(),
        Err(_) => "<unknown>".into(),
    }
}

/// As kubectl writes how long something took: two units at most.
fn duration(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.as_second().saturating_sub(from.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |big: i64, unit: &str, small: i64, of: &str| match small {
        0 => format!("{big}{unit}"),
        small => format!("{big}{unit}{small}{of}"),
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

fn pod_status(pod: &Value) -> String {
    let mut status = text(pod, "status.phase").to_owned();
    if let Some(reason) = at(pod, "status.reason").and_then(Value::as_str) {
        reason.clone_into(&mut status);
    }
    for container in list(pod, "status.containerStatuses") {
        for state in ["waiting", "terminated"] {
            let reason = text(&container["state"][state], "reason");
            if !reason.is_empty() {
                reason.clone_into(&mut status);
            }
        }
    }
    if at(pod, "metadata.deletionTimestamp").is_some() {
        status = "Terminating".into();
    }
    status
}

fn job_status(job: &Value) -> &'static str {
    let is = |name: &str| {
        list(job, "status.conditions")
            .iter()
            .any(|condition| condition["type"] == name && condition["status"] == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if at(job, "metadata.deletionTimestamp").is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn of_definition(definition: &Value) -> Column {
    let path = text(definition, "jsonPath").to_owned();
    let kind = text(definition, "type").to_owned();
    let is_date = kind == "date";
    Column {
        name: text(definition, "name").into(),
        kind,
        priority: number(definition, "priority").unwrap_or_default(),
        cell: Box::new(move |object, now| match select(object, &path) {
            Some(Value::String(time)) if is_date => since(time, now),
            Some(found) => found.clone(),
            None => Value::Null,
        }),
    }
}

/// The part of JSONPath that columns use: fields, and list items that have a field with a value.
fn select<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut value = object;
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(filter) = rest.strip_prefix("[?(@.") {
            let (condition, after) = filter.split_once(")]")?;
            let (field, wanted) = condition.split_once("==")?;
            let wanted = wanted.trim().trim_matches(['"', '\'']);
            value = value
                .as_array()?
                .iter()
                .find(|item| text(item, field.trim()) == wanted)?;
            rest = after;
        } else if let Some(index) = rest.strip_prefix('[') {
            let (index, after) = index.split_once(']')?;
            value = value.get(index.parse::<usize>().ok()?)?;
            rest = after;
        } else {
            let field = rest.strip_prefix('.').unwrap_or(rest);
            let end = field.find(['.', '[']).unwrap_or(field.len());
            value = value.get(&field[..end])?;
            rest = &field[end..];
        }
    }
    (!value.is_null()).then_some(value)
}
