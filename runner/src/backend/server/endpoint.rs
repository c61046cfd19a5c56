//! An endpoint: a server that is there already. Whether it can be reached, takes the API key and has the model; every
//! error names the member of the spec that it is about, and none the key.

use std::{
    fmt,
    time::{Duration, Instant},
};

use inferbench_crds::{contract::API_KEY_VARIABLE, engine::Endpoint};

use super::{
    http::{Http, NoAnswer},
    starting::model_names,
};
use crate::{backend::BackendError, load::RequestError, process::signals};

/// The longest that one question about its models may take.
const QUESTION: Duration = Duration::from_secs(10);
/// Names of models that an error lists.
const LISTED: usize = 8;

/// How an endpoint is reached.
#[derive(Clone, Default)]
pub struct Access {
    /// The API key.
    pub key: Option<String>,
    /// How long it may take until it answers at all.
    pub patience: Duration,
}

impl fmt::Debug for Access {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, patience } = self;
        let key = key.as_ref().map(|_| "(the API key)");
        f.debug_struct("Access")
            .field("key", &key)
            .field("patience", patience)
            .finish()
    }
}

impl Access {
    /// The longest that an endpoint may take to answer before a trial.
    pub const PATIENCE: Duration = Duration::from_secs(60);

    /// That of a process which has one endpoint to ask, and the key in its environment.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self {
            key: Self::key_in(API_KEY_VARIABLE),
            patience: Self::PATIENCE,
        }
    }

    /// The API key that an environment variable has; none where it is empty.
    #[must_use]
    pub fn key_in(variable: &str) -> Option<String> {
        std::env::var(variable).ok().filter(|key| !key.is_empty())
    }

    /// A text without the key, which some servers repeat to whoever sent it.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        match &self.key {
            Some(key) => text.replace(key, "(the API key)"),
            None => text.to_owned(),
        }
    }
}

/// An endpoint that answers.
pub struct Reached {
    /// Where it is asked.
    pub http: Http,
    /// The name that the model has there.
    pub model: String,
}

/// Asks an endpoint which models it has.
///
/// # Errors
/// Where it cannot be reached, refuses the key, or does not have the model.
pub fn reach(endpoint: &Endpoint, access: &Access) -> Result<Reached, BackendError> {
    let http = Http::new(base(endpoint), access.key.as_deref())?;
    let deadline = Instant::now() + access.patience;
    let listed = loop {
        let why = match http.get("/v1/models", QUESTION) {
            Ok((200, body)) => break model_names(&body),
            Ok((status @ (401 | 403), _)) => {
                return Err(refused(endpoint, access.key.is_some(), status));
            }
            // Not all that speak this API list their models.
            Ok((400..=499, _)) => break Vec::new(),
            Ok((status, body)) => format!("it answered HTTP {status}: {}", beginning(&body)),
            Err(NoAnswer { message, .. }) => format!("it cannot be reached: {message}"),
        };
        if Instant::now() >= deadline || signals::interrupted() {
            let why = access.hide(&why);
            return Err(BackendError::failed(format!("{}: {why}", url(endpoint))));
        }
        std::thread::sleep(Duration::from_secs(1));
    };
    let model = choose(endpoint, listed).map_err(BackendError::invalid)?;
    Ok(Reached { http, model })
}

/// The name of the model among those that are listed; of one that lists none, the name in the spec.
fn choose(endpoint: &Endpoint, listed: Vec<String>) -> Result<String, String> {
    match &endpoint.model {
        Some(model) if listed.is_empty() || listed.contains(model) => Ok(model.clone()),
        Some(model) => {
            let names: Vec<String> = listed
                .iter()
                .take(LISTED)
                .map(|name| format!("{name:?}"))
                .collect();
            let more = if listed.len() > LISTED { ", …" } else { "" };
            Err(format!(
                "endpoint.model {model:?}: {} does not have it; it has {}{more}",
                shown(endpoint),
                names.join(", ")
            ))
        }
        None => listed.into_iter().next().ok_or_else(|| {
            format!(
                "endpoint.model: {}/v1/models lists no model; say which one",
                shown(endpoint)
            )
        }),
    }
}

/// The fault of an endpoint's spec, or of the key where one was `given`, if a request failed for that.
pub fn blame(
    endpoint: &Endpoint,
    given: bool,
    model: &str,
    error: &RequestError,
) -> Option<BackendError> {
    let RequestError::Status { code, body: said } = error else {
        return None;
    };
    let place = shown(endpoint);
    let message = match code {
        401 | 403 => return Some(refused(endpoint, given, *code)),
        404 => format!(
            "endpoint.model {model:?}, endpoint.interface.completions: {place} answered HTTP 404: {said}"
        ),
        // A time-out, a conflict, too early, too many: these may pass.
        408 | 409 | 425 | 429 => return None,
        400..=499 => {
            format!("endpoint.interface: {place} refuses the request, HTTP {code}: {said}")
        }
        _ => return None,
    };
    Some(BackendError::invalid(message))
}

/// It does not let us in.
fn refused(endpoint: &Endpoint, given: bool, status: u16) -> BackendError {
    let place = shown(endpoint);
    let what = match given {
        true => "does not accept the API key",
        false => "wants an API key, and there is none",
    };
    let secret = endpoint.api_key_secret_ref.as_ref();
    let secret = secret.map_or(String::new(), |secret| {
        format!(" {}/{}", secret.name, secret.key)
    });
    BackendError::invalid(format!(
        "endpoint.apiKeySecretRef{secret}: {place} {what} (HTTP {status}); on one machine the key is that in \
         {API_KEY_VARIABLE}"
    ))
}

/// Its URL, as requests have it.
pub fn base(endpoint: &Endpoint) -> &str {
    endpoint.url.trim_end_matches('/')
}

/// The member that names it.
fn url(endpoint: &Endpoint) -> String {
    format!("endpoint.url {}", shown(endpoint))
}

/// Its URL without what may be secret in it: its path, and who asks.
pub fn shown(endpoint: &Endpoint) -> String {
    let parsed = url::Url::parse(&endpoint.url).ok();
    let shown = parsed.and_then(|url| {
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        Some(format!("{}://{}{port}", url.scheme(), url.host_str()?))
    });
    shown.unwrap_or_else(|| "it".into())
}

fn beginning(body: &str) -> String {
    body.trim().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(model: Option<&str>) -> Endpoint {
        Endpoint {
            url: "https://user:hunter2@gateway.example:8443/secret/path".into(),
            model: model.map(str::to_owned),
            ..Endpoint::default()
        }
    }

    #[test]
    fn a_model_is_the_one_that_is_named_or_the_first_that_is_listed() {
        let listed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let chosen = |model, names: &[&str]| choose(&endpoint(model), listed(names));
        assert_eq!(chosen(None, &["a", "b"]), Ok("a".into()));
        assert_eq!(chosen(Some("b"), &["a", "b"]), Ok("b".into()));
        assert_eq!(chosen(Some("b"), &[]), Ok("b".into()));
        assert_eq!(
            chosen(Some("c"), &["a", "b"]),
            Err(
                "endpoint.model \"c\": https://gateway.example:8443 does not have it; it has \"a\", \"b\""
                    .into()
            )
        );
        assert_eq!(
            chosen(None, &[]),
            Err(
                "endpoint.model: https://gateway.example:8443/v1/models lists no model; say which one"
                    .into()
            )
        );
    }

    #[test]
    fn refusals_name_the_member_and_never_the_key() {
        let access = Access {
            key: Some("sk-0123".into()),
            ..Access::default()
        };
        let of = |code, body: &str| {
            let error = RequestError::Status {
                code,
                body: body.into(),
            };
            let error = error.map_said(|said| access.hide(said));
            blame(&endpoint(None), true, "m", &error).map(|error| error.to_string())
        };
        let refused = of(401, "Incorrect API key: sk-0123").unwrap();
        assert_eq!(
            refused,
            "endpoint.apiKeySecretRef: https://gateway.example:8443 does not accept the API key (HTTP 401); on one \
             machine the key is that in INFERBENCH_API_KEY"
        );
        let unknown = of(404, "no model m for sk-0123").unwrap();
        assert_eq!(
            unknown,
            "endpoint.model \"m\", endpoint.interface.completions: https://gateway.example:8443 answered HTTP 404: no \
             model m for (the API key)"
        );
        assert!(
            of(422, "what is min_tokens?")
                .unwrap()
                .starts_with("endpoint.interface: ")
        );
        assert_eq!(of(429, "slow down"), None);
        assert_eq!(of(503, "loading"), None);
    }
}
