//! List: selectors, pages, and reads at a resource version (kubectl.md 0.14).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mvcc_store::{KeyValue, Range, Revision, StoreError};
use object_model::{FieldError, FieldPath, Status, StatusReason};
use serde::{Deserialize, Serialize};

use super::namespace;
use crate::catalog::registry::{Resource, end_of};
use crate::handlers::output::{self, ListMeta, OutputFormat};
use crate::handlers::selection::Selection;
use crate::http::call::Call;
use crate::http::limits::{LIST_CHUNK_MIN, UNREAD_ITEM_BYTES};
use crate::http::negotiate::Representation;
use crate::http::query::Query;
use crate::http::reply::Reply;
use crate::http::work;
use crate::objects::storage;
use crate::objects::storage::Objects;

/// Responds to a GET of a collection.
pub(crate) async fn respond(
    objects: &Objects,
    resource: &Resource,
    call: &Call,
) -> Result<Reply, Status> {
    let selection = Selection::of(call, resource)?;
    let page = Page::parse(&call.query, objects.store.current_revision())?;
    let form = OutputFormat::of(call, resource)?.form;
    let (items, meta) = read(
        objects,
        resource,
        namespace(resource, call),
        &selection,
        &page,
        ReadForm::of_answer(form, &selection),
    )
    .await?;
    // YAML is written from a tree of all objects, so the memory contains each object twice: as stored text and as a
    // tree.
    let copies = match form.is_yaml() {
        true => 3,
        false => 1,
    };
    let bytes = items
        .iter()
        .map(|item| item.value.len() + UNREAD_ITEM_BYTES);
    work::announce(copies * bytes.sum::<usize>())?;
    output::list(call, resource, &items, &meta).await
}

/// The requested page of a collection, and the revision of the list.
#[derive(Debug, Default)]
pub(crate) struct Page {
    limit: Option<usize>,
    revision: Option<Revision>,
    /// The first key of a continued list, relative to the collection.
    start: Option<String>,
}

/// The continue token; opaque to clients.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Token {
    /// The version of the token format.
    v: String,
    /// The revision of the first page; [`NEWEST`] for a list that continues at the newest state.
    rv: i64,
    /// The key after the last listed key, relative to all objects of the kind.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// Replaces a revision in a token: the list continues at the newest state.
const NEWEST: i64 = -1;

impl Page {
    /// Reads `limit`, `continue`, `resourceVersion` and `resourceVersionMatch`.
    ///
    /// *Errors.* 400 for an invalid parameter, also for `timeoutSeconds`, which has no effect.
    pub(crate) fn parse(query: &Query, newest: Revision) -> Result<Self, Status> {
        query.number("timeoutSeconds")?;
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
            return Ok(Self {
                limit,
                revision: token.revision(),
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
    fn new(rv: i64, start: String) -> Self {
        let v = TOKEN_VERSION.to_owned();
        Self { v, rv, start }
    }

    fn parse(text: &str) -> Result<Self, Status> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token: Option<Self> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let good = |token: &Self| {
            let is_valid = token.v == TOKEN_VERSION && !token.start.is_empty();
            is_valid && (token.rv == NEWEST || token.rv > 0)
        };
        let token = token.filter(good);
        token.ok_or_else(|| Status::bad_request("continue key is not valid"))
    }

    fn revision(&self) -> Option<Revision> {
        u64::try_from(self.rv).ok().map(Revision)
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
///
/// *Errors.* 400 for an invalid version.
pub(crate) fn parse_version(text: &str) -> Result<Revision, Status> {
    text.parse().map(Revision).map_err(|_| {
        let field = FieldPath::root("resourceVersion");
        let error = FieldError::invalid(&field, text, "must be an unsigned integer");
        Status::bad_request(format!("invalid resource version: {error}"))
    })
}

/// Checks that the store is not older than the client requires.
///
/// *Errors.* 400 for an invalid version, 504 for a future version.
pub(crate) fn check_not_newer(query: &Query, newest: Revision) -> Result<(), Status> {
    match query.get("resourceVersion").map(parse_version) {
        Some(Err(status)) => Err(status),
        Some(Ok(version)) if version > newest => Err(storage::too_large(version, newest)),
        Some(Ok(_)) | None => Ok(()),
    }
}

/// The range of keys that can match the selection.
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

/// The version of the objects that a read returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadForm {
    /// The version in which each object is stored: for the metadata only.
    Stored,
    /// The version of the resource; the webhook of the kind is called for objects of other versions.
    Requested,
}

impl ReadForm {
    /// The metadata of an object do not depend on its version, except for labels and annotations that a webhook
    /// changes.
    pub(crate) fn of_answer(form: Representation, selection: &Selection) -> Self {
        match form.is_metadata_only() && !selection.needs_objects() {
            true => Self::Stored,
            false => Self::Requested,
        }
    }
}

/// Reads the selected objects of a page.
pub(crate) async fn read(
    objects: &Objects,
    resource: &Resource,
    namespace: &str,
    selection: &Selection,
    page: &Page,
    form: ReadForm,
) -> Result<(Vec<KeyValue>, ListMeta), Status> {
    let (mut start, end) = span(resource, namespace, selection);
    let base = resource.prefix("");
    if let Some(from) = &page.start {
        let from = [base.as_slice(), from.as_bytes()].concat();
        // The token of another namespace must not give access to objects outside of this namespace.
        let inside = from >= start && end.as_ref().is_none_or(|end| from <= *end);
        if !inside {
            return Err(Status::bad_request("continue key is not valid"));
        }
        start = from;
    }
    let mut items: Vec<KeyValue> = Vec::new();
    let mut revision = page.revision;
    let page_size = page.limit.unwrap_or(usize::MAX);
    loop {
        let left = page_size - items.len();
        // Each read also counts the rest of the collection, so a filtered page reads several objects at once.
        let limit = page.limit.map(|_| match selection.is_everything() {
            true => left,
            false => left.max(LIST_CHUNK_MIN),
        });
        let range = Range {
            start: start.clone(),
            end: end.clone(),
            revision,
            limit,
        };
        let read = objects
            .store
            .range(range)
            .await
            .map_err(|e| expired(&e, page))?;
        revision = Some(read.revision);
        work::expect(read.items.iter().map(|item| item.value.len()).sum()).await;
        let count = read.count;
        let (mut visited, mut last) = (0, None);
        let read_items = match form {
            ReadForm::Stored => read.items,
            ReadForm::Requested => objects.in_version(resource, read.items).await?,
        };
        for item in read_items {
            if items.len() >= page_size {
                break;
            }
            visited += 1;
            last = Some(item.key.to_vec());
            let item = storage::readable(resource, &item);
            if selection.is_everything() || selection.matches(resource, &item)? {
                items.push(item.into_owned());
            }
        }
        let mut meta = ListMeta {
            revision: read.revision,
            next: None,
            remaining: None,
        };
        let Some(last) = last.filter(|_| count > visited) else {
            return Ok((items, meta));
        };
        start = [last.as_slice(), b"\0"].concat();
        if items.len() >= page_size {
            let rest = String::from_utf8_lossy(&start[base.len()..]).into_owned();
            let rv = i64::try_from(read.revision.0).unwrap_or(NEWEST);
            meta.next = Some(Token::new(rv, rest).text()?);
            meta.remaining = selection.is_everything().then_some(count - visited);
            return Ok((items, meta));
        }
    }
}

/// 410 for a compacted version. A continued list gets a token that continues at the newest state.
fn expired(error: &StoreError, page: &Page) -> Status {
    if !matches!(error, StoreError::Compacted { .. }) {
        return storage::refusal(error);
    }
    let Some(start) = &page.start else {
        let text = "The resourceVersion for the provided list is too old.";
        return Status::new(StatusReason::Expired, text);
    };
    let text = "The provided continue parameter is too old to display a consistent list result. \
                You can start a new list without the continue parameter, or use the continue \
                token in this response to retrieve the remainder of the results. Continuing with \
                the provided token results in an inconsistent list - objects that were created, \
                modified, or deleted between the time the first chunk was returned and now may \
                show up in the list.";
    let mut status = Status::new(StatusReason::Expired, text);
    status.next = Token::new(NEWEST, start.clone()).text().ok();
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_written_and_others_are_refused() {
        let token = Token::new(7, "default/a\0".to_owned());
        assert_eq!(Token::parse(&token.text().unwrap()).unwrap(), token);
        let newest = Token::new(NEWEST, "a".to_owned());
        let read = Token::parse(&newest.text().unwrap()).unwrap();
        assert_eq!(read.revision(), None);
        for (v, rv, start) in [
            ("meta.k8s.io/v2", 7, "a"),
            (TOKEN_VERSION, 0, "a"),
            (TOKEN_VERSION, -2, "a"),
            (TOKEN_VERSION, 7, ""),
        ] {
            let (v, start) = (v.to_owned(), start.to_owned());
            let text = Token { v, rv, start }.text().unwrap();
            assert_eq!(Token::parse(&text).unwrap_err().code, 400);
        }
    }
}
