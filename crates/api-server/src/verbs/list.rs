//! List: selectors, pages, and reads at a resource version (kubectl.md 0.14).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mvcc_store::{KeyValue, Range, Revision};
use object_model::{FieldError, FieldPath, Status, StatusReason};
use serde::{Deserialize, Serialize};

use super::namespace;
use crate::output::{self, ListMeta};
use crate::pipeline::Call;
use crate::query::Query;
use crate::registry::{Resource, end_of};
use crate::reply::Reply;
use crate::selection::Selection;
use crate::server::ApiServer;
use crate::storage;

/// Answers a GET of a collection.
pub(crate) async fn answer(
    server: &ApiServer,
    resource: &Resource,
    call: &Call,
) -> Result<Reply, Status> {
    let selection = Selection::parse(&call.query, resource)?;
    let page = Page::parse(&call.query, server.store.current_revision())?;
    let (items, meta) = read(
        server,
        resource,
        namespace(resource, call),
        &selection,
        &page,
    )
    .await?;
    output::list(call, resource, &items, &meta)
}

/// Which part of a collection is read, as of when.
#[derive(Debug, Default)]
pub(crate) struct Page {
    limit: Option<usize>,
    revision: Option<Revision>,
    /// First key, relative to the collection, of a list that goes on.
    start: Option<String>,
}

/// Where a list goes on; opaque to clients.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    /// Revision of the first page.
    rv: u64,
    /// Key, relative to all objects of the kind, behind the last one sent.
    start: String,
}

impl Page {
    /// Reads `limit`, `continue`, `resourceVersion` and `resourceVersionMatch`.
    pub(crate) fn parse(query: &Query, newest: Revision) -> Result<Self, Status> {
        let limit = query.number("limit")?.filter(|limit| *limit > 0);
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        let version = query.get("resourceVersion");
        let matching = query.get("resourceVersionMatch");
        check_match(version, matching, query.get("continue"))?;
        if query.has("sendInitialEvents") {
            let field = FieldPath::root("sendInitialEvents");
            let text = "sendInitialEvents is forbidden for list";
            let error = FieldError::forbidden(&field, text);
            return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]));
        }
        if let Some(token) = query.get("continue") {
            if version.is_some_and(|version| version != "0") {
                let text = "specifying resource version is not allowed when using continue";
                return Err(Status::bad_request(text));
            }
            let token = Token::parse(token)?;
            let revision = (token.rv > 0).then_some(Revision(token.rv));
            return Ok(Self {
                limit,
                revision,
                start: Some(token.start),
            });
        }
        let version = version
            .map(parse_version)
            .transpose()?
            .unwrap_or(Revision(0));
        if version > newest {
            return Err(storage::too_large(version, newest));
        }
        let exact = matching == Some("Exact") || (matching.is_none() && limit.is_some());
        let revision = (exact && version.0 > 0).then_some(version);
        Ok(Self {
            limit,
            revision,
            start: None,
        })
    }
}

impl Token {
    fn parse(text: &str) -> Result<Self, Status> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token: Option<Self> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        token.ok_or_else(|| Status::bad_request("continue key is not valid"))
    }

    fn text(&self) -> Result<String, Status> {
        let json = serde_json::to_vec(self)
            .map_err(|e| Status::internal(format!("write a continue token: {e}")))?;
        Ok(URL_SAFE_NO_PAD.encode(json))
    }
}

fn check_match(
    version: Option<&str>,
    matching: Option<&str>,
    next: Option<&str>,
) -> Result<(), Status> {
    let Some(matching) = matching else {
        return Ok(());
    };
    let field = FieldPath::root("resourceVersionMatch");
    let error = if next.is_some() {
        FieldError::forbidden(
            &field,
            "resourceVersionMatch is forbidden when continue is provided",
        )
    } else if version.is_none() {
        let text = "resourceVersionMatch is forbidden unless resourceVersion is provided";
        FieldError::forbidden(&field, text)
    } else if !matches!(matching, "Exact" | "NotOlderThan") {
        FieldError::not_supported(&field, matching, &["Exact", "NotOlderThan"])
    } else if matching == "Exact" && version == Some("0") {
        let text = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
        FieldError::forbidden(&field, text)
    } else {
        return Ok(());
    };
    Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]))
}

/// A resource version as a number.
pub(crate) fn parse_version(text: &str) -> Result<Revision, Status> {
    text.parse().map(Revision).map_err(|_| {
        let field = FieldPath::root("resourceVersion");
        let error = FieldError::invalid(&field, text, "must be an unsigned integer");
        Status::invalid("meta.k8s.io", "ListOptions", "", &[error])
    })
}

/// The range of keys that can hold what is selected.
pub(crate) fn span(
    resource: &Resource,
    namespace: &str,
    selection: &Selection,
) -> (Vec<u8>, Option<Vec<u8>>) {
    let namespace = match selection.only_namespace() {
        Some(only) if namespace.is_empty() => only,
        _ => namespace,
    };
    if let Some(name) = selection.only_name()
        && (!resource.namespaced() || !namespace.is_empty())
    {
        return (resource.key(namespace, name), None);
    }
    let start = resource.prefix(namespace);
    let end = end_of(&start);
    (start, Some(end))
}

/// Reads the selected objects of a page.
pub(crate) async fn read(
    server: &ApiServer,
    resource: &Resource,
    namespace: &str,
    selection: &Selection,
    page: &Page,
) -> Result<(Vec<KeyValue>, ListMeta), Status> {
    let (mut start, end) = span(resource, namespace, selection);
    let base = resource.prefix("");
    if let Some(from) = &page.start {
        let from = [base.as_slice(), from.as_bytes()].concat();
        // A token of another namespace must not lead out of this one.
        let inside = from >= start && end.as_ref().is_none_or(|end| from <= *end);
        if !inside {
            return Err(Status::bad_request("continue key is not valid"));
        }
        start = from;
    }
    let mut items: Vec<KeyValue> = Vec::new();
    let mut revision = page.revision;
    let wanted = page.limit.unwrap_or(usize::MAX);
    loop {
        let limit = page.limit.map(|_| wanted - items.len());
        let range = Range {
            start: start.clone(),
            end: end.clone(),
            revision,
            limit,
        };
        let read = server
            .store
            .range(range)
            .await
            .map_err(|e| expired(&e, page))?;
        revision = Some(read.revision);
        let (read_now, count) = (read.items.len(), read.count);
        let last = read.items.last().map(|item| item.key.to_vec());
        for item in read.items {
            if selection.is_everything() || selection.matches(resource, &item)? {
                items.push(item);
            }
        }
        let mut meta = ListMeta {
            revision: read.revision,
            next: None,
            remaining: None,
        };
        let Some(last) = last.filter(|_| count > read_now) else {
            return Ok((items, meta));
        };
        start = [last.as_slice(), b"\0"].concat();
        if items.len() >= wanted {
            let rest = String::from_utf8_lossy(&start[base.len()..]).into_owned();
            meta.next = Some(
                Token {
                    rv: read.revision.0,
                    start: rest,
                }
                .text()?,
            );
            meta.remaining = selection.is_everything().then_some(count - read_now);
            return Ok((items, meta));
        }
    }
}

/// 410 for a list whose first page is too old to go on from.
fn expired(error: &mvcc_store::StoreError, page: &Page) -> Status {
    match error {
        mvcc_store::StoreError::Compacted { .. } if page.start.is_some() => Status::new(
            StatusReason::Expired,
            "The provided continue parameter is too old to display a consistent list result. You \
             must start a new list without the continue parameter.",
        ),
        mvcc_store::StoreError::Compacted { asked, .. } => Status::new(
            StatusReason::Expired,
            format!(
                "The resourceVersion for the provided list is too old. ({})",
                asked.0
            ),
        ),
        other => storage::refusal(other),
    }
}
