//! The patterns that strings are held to, each with words for a person. Written in the syntax that Go's `regexp`
//! (the API server) and Rust's `regex` share.

use crate::duration;

/// A model's name: it stands in tables, file names and labels.
pub const MODEL_NAME: &str = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$";
/// A parameter's name: a column of tables and a member of documents.
pub const PARAMETER_NAME: &str = "^[a-z][A-Za-z0-9]*$";
/// A DNS-1123 subdomain: the name of a Kubernetes object.
pub const DNS_SUBDOMAIN: &str =
    "^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$";
/// A label key or an extended resource.
pub const QUALIFIED_NAME: &str =
    "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$";
/// A Hugging Face repository.
pub const REPOSITORY: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$";
/// A branch, tag or commit.
pub const REVISION: &str = "^[A-Za-z0-9][A-Za-z0-9._/-]*$";
/// The URL of a store or of a folder in one.
pub const STORE_URL: &str =
    "^((s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]*(/[^?#\\s]*)?|file:///[^?#]*)$";
/// The URL of a server.
pub const HTTP_URL: &str = "^https?://[^/?#\\s]+(/[^?#\\s]*)?$";
/// A path of a server's API.
pub const HTTP_PATH: &str = "^/[^?#\\s]*$";
/// The name of a command's option.
pub const FLAG: &str = "^--?[A-Za-z0-9][A-Za-z0-9._-]*$";
/// A member of a request's body.
pub const FIELD: &str = "^[A-Za-z_][A-Za-z0-9_]*$";
/// A region of a cloud.
pub const REGION: &str = "^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$";
/// A reference to a container image.
pub const IMAGE: &str = "^[A-Za-z0-9][A-Za-z0-9._:/@-]*$";
/// A folder inside a volume: neither absolute nor climbing out.
pub const RELATIVE_PATH: &str =
    "^([^/.]|\\.[^/.]|\\.\\.[^/])[^/]*(/([^/.]|\\.[^/.]|\\.\\.[^/])[^/]*)*/?$";
/// A key of a Secret.
pub const SECRET_KEY: &str = "^[-._A-Za-z0-9]+$";
/// The name of an environment variable.
pub const ENV_NAME: &str = "^[-._A-Za-z][-._A-Za-z0-9]*$";
/// A decimal number.
pub const DECIMAL: &str = "^[0-9]{1,9}(\\.[0-9]{1,9})?$";

/// A percentage above 0, and at most 100.
pub const PERCENT: &str = "^(100|[1-9][0-9]?(\\.[0-9]{1,2})?|0\\.(0[1-9]|[1-9][0-9]?))%$";

/// The share that a percentage of this form is: 0.03 for `3%`. None where it is none, which validation reports.
#[must_use]
pub fn share(percent: &str) -> Option<f64> {
    let percent: f64 = percent.strip_suffix('%')?.parse().ok()?;
    Some(percent / 100.0).filter(|share| *share > 0.0 && *share <= 1.0)
}

/// A line of text, not empty.
pub const LINE: &str = "^[^\\x00-\\x1f\\x7f]*[^\\x00-\\x20\\x7f][^\\x00-\\x1f\\x7f]*$";
/// An expression: printable ASCII, tabs and ends of lines.
pub const EXPRESSION: &str = "^[\\t\\n\\r -~]*$";

/// Every pattern with what it allows, to follow "is not".
pub const EXPLAINED: [(&str, &str); 21] = [
    (
        MODEL_NAME,
        "made of letters, digits, `.`, `_` and `-`, with a letter or digit at both ends",
    ),
    (
        PARAMETER_NAME,
        "a name such as maxNumSeqs: letters and digits, a lower-case letter first",
    ),
    (
        DNS_SUBDOMAIN,
        "a DNS-1123 name: lower-case letters, digits, `-` and `.`, with a letter or digit at both ends",
    ),
    (QUALIFIED_NAME, "a qualified name such as nvidia.com/gpu"),
    (
        REPOSITORY,
        "a Hugging Face repository such as openai-community/gpt2",
    ),
    (REVISION, "a branch, tag or commit"),
    (
        STORE_URL,
        "a URL such as s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///folder",
    ),
    (HTTP_URL, "a URL such as https://minio.example.org:9000"),
    (HTTP_PATH, "a path such as /v1/completions"),
    (FLAG, "the name of an option such as --max-num-seqs"),
    (FIELD, "the name of a request's member such as top_k"),
    (REGION, "a region such as eu-north-1"),
    (IMAGE, "an image reference such as ghcr.io/owner/name:tag"),
    (
        RELATIVE_PATH,
        "a folder inside the volume, such as runs/first",
    ),
    (
        SECRET_KEY,
        "a key of a Secret: letters, digits, `-`, `.` and `_`",
    ),
    (
        ENV_NAME,
        "the name of an environment variable: letters, digits, `-`, `.` and `_`, no digit first",
    ),
    (
        PERCENT,
        "a percentage such as 3% or 0.5%: above 0, at most 100, with at most two decimals",
    ),
    (DECIMAL, "a decimal number such as \"2.50\""),
    (LINE, "a line of printable characters"),
    (
        EXPRESSION,
        "made of printable ASCII characters and ends of lines",
    ),
    (
        duration::PATTERN,
        "a duration such as 500ms, 2s, 30m or 1h30m",
    ),
];
