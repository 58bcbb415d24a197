//! The protocol as a table: raw requests, the replies that the documentation of Kubernetes promises,
//! and where it does so. The rows are in the YAML files beside this one; `docs/requests.md` is made
//! of them.
//!
//! A chapter has a server of its own, on which its rows are asked in order. A row has the request
//! (`ask`, `as` another user, `accept` and `type` for the two headers of that purpose, `with` others,
//! and as a body `json`, `text_sent`, or so much `padding`), and the reply: its `code`, of its `head`
//! what is given, and of its body what is given as `reply`, `events` or `text`. Objects may have more
//! fields than are given, lists are as long as given; `null` stands for what is not there, `*` for
//! anything that is, `…` for any text. `keep` remembers values of a reply as `$name` for later rows.

mod document;
mod fits;

use std::collections::BTreeMap;

use futures::future::join_all;
use json_tree::Value;
use mvcc_store::Store;
use serde::Deserialize;

use crate::harness::{Answer, Api};
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
    /// Requests that come before: method, path, JSON.
    #[serde(default)]
    given: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(try_from = "Value")]
enum Row {
    Do(Deed),
    Ask(Box<Ask>),
}

impl TryFrom<Value> for Row {
    type Error = serde_json::Error;

    fn try_from(row: Value) -> Result<Self, serde_json::Error> {
        match row.get("do") {
            Some(deed) => Deed::deserialize(deed).map(Self::Do),
            None => json_tree::from_value(row).map(Self::Ask),
        }
    }
}

/// An action on a server between two requests.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Deed {
    /// The store forgets all history.
    Compact,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    ask: String,
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

/// Values that rows refer to by name.
struct Kept(BTreeMap<String, String>);

impl Kept {
    fn new() -> Self {
        let mut all: BTreeMap<String, String> = NAMES
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        all.insert("long".to_owned(), "x".repeat(129));
        Self(all)
    }

    /// The text with values in place of their names; `$schema` and the like stay.
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

    /// Keeps a header (`head etag`) or a field (`metadata.continue`; slashes are parts of names).
    fn keep(&mut self, name: &str, place: &str, answer: &Answer) -> Result<(), String> {
        let value = match place.strip_prefix("head ") {
            Some(header) => answer
                .headers
                .get(header)
                .and_then(|v| v.to_str().ok())
                .map(str::to_owned),
            None => {
                let body: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
                let found = place
                    .split('.')
                    .try_fold(&body, |value, field| value.get(field));
                found.and_then(Value::as_str).map(str::to_owned)
            }
        };
        let value = value.ok_or_else(|| format!("there is no {place} to keep"))?;
        self.0.insert(name.to_owned(), value);
        Ok(())
    }
}

impl Ask {
    async fn answered(&self, api: &Api, kept: &Kept) -> Answer {
        let (method, path) = self.ask.split_once(' ').unwrap();
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
            .map(|(name, value)| (name.as_str(), kept.fill(value)))
            .collect();
        let others = others.iter().map(|(name, value)| (*name, value.as_str()));
        let headers: Vec<(&str, &str)> = named.chain(others).collect();
        let body = match (&self.json, &self.text_sent, self.padding) {
            (Some(json), _, _) => kept.fill_all(json).to_string(),
            (None, Some(text), _) => text.clone(),
            (None, None, padding) => " ".repeat(padding.unwrap_or(0)),
        };
        let user = self.user.as_deref();
        let other = user.map(|name| api.as_user(name, &["system:authenticated"]));
        let api = other.as_ref().unwrap_or(api);
        api.raw(method, &kept.fill(path), &headers, body).await
    }

    /// The difference of the response.
    fn check(&self, answer: &Answer, kept: &Kept) -> Vec<String> {
        let mut wrong = Vec::new();
        if answer.code != self.code {
            wrong.push(format!("code {} instead of {}", answer.code, self.code));
        }
        for (name, wanted) in &self.head {
            let found: Vec<&str> = answer
                .headers
                .get_all(name)
                .iter()
                .filter_map(|v| v.to_str().ok())
                .collect();
            let fits = match wanted {
                None => found.is_empty(),
                Some(wanted) => found
                    .iter()
                    .any(|found| fits_text(&kept.fill(wanted), found)),
            };
            if !fits {
                wrong.push(format!("header {name} is {found:?}"));
            }
        }
        let body: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
        fits(&kept.fill_all(&self.reply), &body, "", &mut wrong);
        if self.code >= 400 && !answer.bytes.is_empty() && self.text.is_none() {
            let status = json_tree::json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "*", "code": self.code,
            });
            fits(&status, &body, "", &mut wrong);
        }
        if let Some(wanted) = &self.events {
            let text = answer.text();
            let events: Vec<Value> = text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap_or_default())
                .collect();
            fits(
                &kept.fill_all(&wanted.clone().into()),
                &events.into(),
                "",
                &mut wrong,
            );
        }
        if let Some(wanted) = &self.text
            && !fits_text(wanted, &answer.text())
        {
            wrong.push("another text".to_owned());
        }
        wrong
    }
}

/// Asks all rows of a chapter; returns what is wrong.
async fn run(chapter: &Chapter) -> Vec<String> {
    let api = Api::new().await;
    api.with_account().await;
    let mut kept = Kept::new();
    let mut wrong = Vec::new();
    for given in &chapter.given {
        let words: Vec<&str> = given.splitn(3, ' ').collect();
        let [method, path, json] = words[..] else {
            panic!("no request: {given}");
        };
        let answer = api
            .raw(method, &kept.fill(path), &[], json.to_owned())
            .await;
        assert!(answer.code < 300, "{given}: {}", answer.text());
    }
    for row in &chapter.rows {
        match row {
            Row::Do(Deed::Compact) => {
                let current = api.store.current_revision();
                let secret = json_tree::json!({"metadata": {"generateName": "x-"}});
                api.create(&kept.fill("$secrets"), secret).await;
                api.store.compact(current).await.unwrap();
            }
            Row::Ask(ask) => {
                let answer = ask.answered(&api, &kept).await;
                let mut found = ask.check(&answer, &kept);
                for (name, place) in &ask.keep {
                    found.extend(kept.keep(name, place, &answer).err());
                }
                if !found.is_empty() {
                    let text: String = answer.text().chars().take(600).collect();
                    wrong.push(format!(
                        "{}: {} ({}):\n  {}\n  {text}",
                        chapter.title,
                        ask.ask,
                        ask.says,
                        found.join("\n  "),
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
