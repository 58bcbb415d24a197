//! Lists of objects.

use bytes::Bytes;
use json_text::{Cursor, SyntaxError};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use serde::de::{DeserializeOwned, Error as _};

use crate::client::decode;
use crate::error::{Error, Result};

/// One page of a list of objects of one kind.
#[derive(Clone, Debug, Default)]
pub struct ObjectList<K> {
    /// The version of the list, and the token for the next page.
    pub metadata: ListMeta,
    /// The objects of this page, in the order of their keys.
    pub items: Vec<K>,
}

impl<K> IntoIterator for ObjectList<K> {
    type Item = K;
    type IntoIter = std::vec::IntoIter<K>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl<K: DeserializeOwned> ObjectList<K> {
    pub(crate) fn decode(text: &Bytes) -> Result<Self> {
        let page = Page::read(text)?;
        let items = page.items.iter().map(|item| decode(item));
        Ok(Self {
            items: items.collect::<Result<_>>()?,
            metadata: page.metadata,
        })
    }
}

/// A list whose objects are not decoded.
pub(crate) struct Page {
    pub metadata: ListMeta,
    pub items: Vec<Bytes>,
}

impl Page {
    pub fn read(text: &Bytes) -> Result<Self> {
        let (metadata, items) = parts(text).map_err(syntax)?;
        let metadata = metadata.ok_or_else(|| malformed("a list"))?;
        Ok(Self {
            metadata: decode(metadata)?,
            items,
        })
    }
}

/// The metadata and the objects of a list.
fn parts(text: &Bytes) -> Result<(Option<&[u8]>, Vec<Bytes>), SyntaxError> {
    let (mut metadata, mut items) = (None, Vec::new());
    let mut cursor = Cursor::new(text);
    let mut members = cursor.object()?;
    while let Some(key) = members.next_key(&mut cursor)? {
        if key.is("metadata") {
            metadata = Some(cursor.skip()?);
        } else if key.is("items") && cursor.peek()? != b'n' {
            let mut elements = cursor.array()?;
            while elements.next(&mut cursor)? {
                items.push(text.slice_ref(cursor.skip()?));
            }
        } else {
            // Other members are skipped, and so is `null` in place of items.
            cursor.skip()?;
        }
    }
    Ok((metadata, items))
}

/// The error of a response that is not JSON.
pub(crate) fn syntax(error: SyntaxError) -> Error {
    Error::Json(serde_json::Error::custom(error))
}

/// The error of a response that does not have the requested form.
pub(crate) fn malformed(form: &str) -> Error {
    Error::Json(serde_json::Error::custom(format!("not {form}")))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn read(text: &'static str) -> Result<ObjectList<ConfigMap>> {
        ObjectList::decode(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn the_objects_of_a_list_are_decoded_one_by_one() {
        let list = read(
            r#"{"kind":"ConfigMapList","apiVersion":"v1",
            "metadata":{"resourceVersion":"7","continue":"c"},
            "items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}"#,
        )
        .unwrap();
        let names = list
            .items
            .iter()
            .map(|map| map.metadata.name.as_deref().unwrap());
        assert_eq!(names.collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(list.metadata.continue_.as_deref(), Some("c"));
        let none = read(r#"{"items":null,"metadata":{"resourceVersion":"7"}}"#).unwrap();
        assert_eq!(none.items.len(), 0);
        for text in [
            "",
            "[]",
            "{}",
            r#"{"items":[{"data":1}],"metadata":{}}"#,
            r#"{"items":{},"metadata":{}}"#,
            r#"{"metadata":{},"items":[{}]"#,
            r#"{"items":[1"#,
        ] {
            assert!(matches!(read(text), Err(Error::Json(_))), "{text}");
        }
    }
}
