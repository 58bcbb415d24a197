//! The protocol as a table: raw requests, the responses that the documentation of Kubernetes promises, and the source
//! of each promise. The rows are in the YAML files of this directory; `docs/requests.md` is generated from them.
//!
//! Each chapter has its own server, to which its rows are sent in order. A row contains the request (`request`, `as`
//! another user, `accept` and `type` for these two headers, `with` for other headers, and as a body `json`,
//! `text_sent`, or `padding` bytes), and the response: its `code`, the expected headers in `head`, and the expected
//! body as `reply`, `events` or `text`. Objects may have more fields than expected; lists must have the expected
//! length. `null` means an absent value, `*` any value, `…` any text. `keep` stores values of a response as `$name`
//! for later rows.

mod document;
mod fits;

use std::collections::BTreeMap;

use futures::future::join_all;
use json_tree::Value;
use mvcc_store::Store;
use serde::Deserialize;

use crate::harness::{Api, ApiResponse};
use fits::{fits, fits_text};

const FILES: [&str; 2] = [include_str!("reading.yaml"), include_str!("writing.yaml")];

/// The short names in rows.
const NAMES: [(&str, &str); 6] = [
    ("accounts", "/api/v1/namespaces/default/serviceaccounts"),
    (
        "leases",
        "/apis/coordination.k8s.io/v1/namespaces/default/leases",
    ),
    ("maps", "/api/v1/namespaces/default/configmaps"),
    ("pods", "/api/v1/namespaces/default/pods"),
    ("secrets", "/api/v1/namespaces/default/secrets"),
    ("sets", "/apis/apps/v1/namespaces/default/statefulsets"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chapter {
    title: String,
    /// Requests that are sent before the rows: method, path, JSON.
    #[serde(default)]
    setup: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(try_from = "Value")]
enum Row {
    Do(Deed),
    Request(Box<RequestRow>),
}

impl TryFrom<Value> for Row {
    type Error = serde_json::Error;

    fn try_from(row: Value) -> Result<Self, serde_json::Error> {
        match row.get("do") {
            Some(deed) => Deed::deserialize(deed).map(Self::Do),
            None => json_tree::from_value(row).map(Self::Request),
        }
    }
}

/// An action on the server between two requests.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deed {
    /// The store compacts its whole history.
    Compact,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestRow {
    request: String,
    #[serde(rename = "as")]
    user: Option<String>,
    accept: Option<String>,
    #[serde(rename = "type")]
    content_type: Option<String>,
    #[serde(default)]
    with: BTreeMap<String, String>,
    json: Option<Value>,
    text_sent: Option<String>,
    padding: Option<usize>,
    says: String,
    rule: String,
    code: u16,
    #[serde(default)]
    head: BTreeMap<String, Option<String>>,
    #[serde(default)]
    reply: Value,
    events: Option<Vec<Value>>,
    text: Option<String>,
    #[serde(default)]
    keep: BTreeMap<String, String>,
}

fn chapters() -> Vec<Chapter> {
    let read = |text| serde_saphyr::from_str::<Vec<Chapter>>(text).unwrap();
    FILES.into_iter().flat_map(read).collect()
}

/// Stored values to which rows refer by name.
struct StoredValues(BTreeMap<String, String>);

impl StoredValues {
    fn new() -> Self {
        let mut all: BTreeMap<String, String> = NAMES
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        all.insert("long".to_owned(), "x".repeat(129));
        Self(all)
    }

    /// The text with the values instead of their names; unknown names such as `$schema` stay.
    fn fill(&self, text: &str) -> String {
        let mut filled = text.to_owned();
        for (name, value) in self.0.iter().rev() {
            filled = filled.replace(&format!("${name}"), value);
        }
        filled
    }

    fn fill_all(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.fill(text).into(),
            Value::Array(list) => list.iter().map(|item| self.fill_all(item)).collect(),
            Value::Object(map) => {
                let entries = map.iter().map(|(k, v)| (k.clone(), self.fill_all(v)));
                Value::Object(entries.collect())
            }
            other => other.clone(),
        }
    }

    /// Stores a header (`head etag`) or a field (`metadata.continue`; slashes are parts of names).
    fn keep(&mut self, name: &str, field_path: &str, response: &ApiResponse) -> Result<(), String> {
        let value = match field_path.strip_prefix("head ") {
            Some(header) => response
                .headers
                .get(header)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned),
            None => {
                let body: Value = serde_json::from_slice(&response.bytes).unwrap_or_default();
                let stored_value = field_path
                    .split('.')
                    .try_fold(&body, |value, field| value.get(field));
                stored_value.and_then(Value::as_str).map(str::to_owned)
            }
        };
        let value = value.ok_or_else(|| format!("there is no {field_path} to keep"))?;
        self.0.insert(name.to_owned(), value);
        Ok(())
    }
}

impl RequestRow {
    async fn send(&self, api: &Api, stored_values: &StoredValues) -> ApiResponse {
        let (method, path) = self.request.split_once(' ').unwrap();
        let named = [
            ("accept", &self.accept),
            ("content-type", &self.content_type),
        ];
        let named = named
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let others: Vec<(&str, String)> = self
            .with
            .iter()
            .map(|(name, value)| (name.as_str(), stored_values.fill(value)))
            .collect();
        let others = others.iter().map(|(name, value)| (*name, value.as_str()));
        let headers: Vec<(&str, &str)> = named.chain(others).collect();
        let body = match (&self.json, &self.text_sent, self.padding) {
            (Some(json), _, _) => stored_values.fill_all(json).to_string(),
            (None, Some(text), _) => text.clone(),
            (None, None, padding) => " ".repeat(padding.unwrap_or(0)),
        };
        let user = self.user.as_deref();
        let other = user.map(|name| api.as_user(name, &["system:authenticated"]));
        let api = other.as_ref().unwrap_or(api);
        api.raw(method, &stored_values.fill(path), &headers, body)
            .await
    }

    /// The differences of the response.
    fn check(&self, response: &ApiResponse, stored_values: &StoredValues) -> Vec<String> {
        let mut wrong = Vec::new();
        if response.code != self.code {
            wrong.push(format!("code {} instead of {}", response.code, self.code));
        }
        for (name, expected) in &self.head {
            let actual: Vec<&str> = response
                .headers
                .get_all(name)
                .iter()
                .filter_map(|v| v.to_str().ok())
                .collect();
            let fits = match expected {
                None => actual.is_empty(),
                Some(expected) => actual
                    .iter()
                    .any(|value| fits_text(&stored_values.fill(expected), value)),
            };
            if !fits {
                wrong.push(format!("header {name} is {actual:?}"));
            }
        }
        let body: Value = serde_json::from_slice(&response.bytes).unwrap_or_default();
        fits(&stored_values.fill_all(&self.reply), &body, "", &mut wrong);
        if self.code >= 400 && !response.bytes.is_empty() && self.text.is_none() {
            let status = json_tree::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "*", "code": self.code,
            });
            fits(&status, &body, "", &mut wrong);
        }
        if let Some(expected) = &self.events {
            let text = response.text();
            let events: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_default())
                .collect();
            fits(
                &stored_values.fill_all(&expected.clone().into()),
                &events.into(),
                "",
                &mut wrong,
            );
        }
        if let Some(expected) = &self.text
            && !fits_text(expected, &response.text())
        {
            wrong.push("another text".to_owned());
        }
        wrong
    }
}

/// Sends the requests of all rows of a chapter; returns the differences.
async fn run(chapter: &Chapter) -> Vec<String> {
    let api = Api::new().await;
    api.with_account().await;
    let mut stored_values = StoredValues::new();
    let mut wrong = Vec::new();
    for setup in &chapter.setup {
        let words: Vec<&str> = setup.splitn(3, ' ').collect();
        let [method, path, json] = words[..] else {
            panic!("no request: {setup}");
        };
        let response = api
            .raw(method, &stored_values.fill(path), &[], json.to_owned())
            .await;
        assert!(response.code < 300, "{setup}: {}", response.text());
    }
    for row in &chapter.rows {
        match row {
            Row::Do(Deed::Compact) => {
                let current = api.store.current_revision();
                let secret = json_tree::json!({"metadata": {"generateName": "x-"}});
                api.create(&stored_values.fill("$secrets"), secret).await;
                api.store.compact(current).await.unwrap();
            }
            Row::Request(request) => {
                let response = request.send(&api, &stored_values).await;
                let mut differences = request.check(&response, &stored_values);
                for (name, field_path) in &request.keep {
                    differences.extend(stored_values.keep(name, field_path, &response).err());
                }
                if !differences.is_empty() {
                    let text: String = response.text().chars().take(600).collect();
                    wrong.push(format!(
                        "{}: {} ({}):\n  {}\n  {text}",
                        chapter.title,
                        request.request,
                        request.says,
                        differences.join("\n  "),
                    ));
                }
            }
        }
    }
    wrong
}

#[tokio::test]
async fn every_request_is_answered_as_documented() {
    let chapters = chapters();
    let wrong: Vec<String> = join_all(chapters.iter().map(run))
        .await
        .into_iter()
        .flatten()
        .collect();
    assert!(
        wrong.is_empty(),
        "{} rows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_document_shows_the_table() {
    document::compare(&chapters());
}
