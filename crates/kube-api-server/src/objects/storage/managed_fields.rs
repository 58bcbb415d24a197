//! The managed fields of an object, as text outside of its tree. They are a third of a usual object, and most writes
//! change few of them.

use bytes::Bytes;
use json_tree::Value;
use object_model::Status;
use structured_merge::apply::same_but_for_times;

use super::scan::undecodable;

/// `metadata.managedFields` as the JSON text of the list.
#[derive(Clone, Debug)]
pub(crate) struct ManagedFields(Bytes);

impl ManagedFields {
    /// The list from the bytes of a stored object.
    ///
    /// *Errors.* 500 if the bytes are not UTF-8.
    pub(super) fn stored(list: Bytes) -> Result<Self, Status> {
        std::str::from_utf8(&list).map_err(undecodable)?;
        Ok(Self(list))
    }

    /// The JSON text of `metadata.managedFields`.
    pub(crate) fn text(&self) -> &str {
        // The constructor has checked the UTF-8.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn list(&self) -> Result<Value, Status> {
        serde_json::from_str(self.text()).map_err(undecodable)
    }

    /// Adds the managed fields to the tree of their object.
    ///
    /// *Errors.* 500 if the text is not JSON.
    pub(crate) fn restore(&self, object: &mut Value) -> Result<(), Status> {
        object["metadata"]["managedFields"] = self.list()?;
        Ok(())
    }
}

impl From<String> for ManagedFields {
    /// The list that `structured-merge` wrote.
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// The managed fields of an object during a write of it.
#[derive(Clone, Debug)]
pub(crate) enum Managers {
    /// The managed fields are in the tree of their object, because policies, webhooks and JSON patches read them.
    Within,
    /// The managed fields are not in the tree; `None` if the object has none.
    Apart(Option<ManagedFields>),
}

impl Managers {
    pub(crate) fn apart(&self) -> Option<&ManagedFields> {
        match self {
            Self::Within => None,
            Self::Apart(managed) => managed.as_ref(),
        }
    }

    /// Whether both lists are equal except for the times. Managed fields inside of trees are not compared.
    ///
    /// *Errors.* 500 if a text is not JSON.
    pub(crate) fn same(&self, other: &Self) -> Result<bool, Status> {
        match (self.apart(), other.apart()) {
            (Some(one), Some(other)) if one.0 != other.0 => {
                Ok(same_but_for_times(&one.list()?, &other.list()?))
            }
            (one, other) => Ok(one.is_some() == other.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use json_tree::json;

    use super::*;

    fn apart(list: &Value) -> Managers {
        Managers::Apart(Some(list.to_string().into()))
    }

    #[test]
    fn managers_apart_are_compared_without_their_times() {
        let at = |time: &str| apart(&json!([{"manager": "a", "time": time}]));
        let other = apart(&json!([{"manager": "b", "time": "1"}]));
        let none = Managers::Apart(None);
        assert_eq!(at("1").same(&at("1")), Ok(true));
        assert_eq!(at("1").same(&at("2")), Ok(true));
        assert_eq!(at("1").same(&other), Ok(false));
        assert_eq!(at("1").same(&none), Ok(false));
        assert_eq!(none.same(&none), Ok(true));
        assert_eq!(Managers::Within.same(&Managers::Within), Ok(true));
    }
}
