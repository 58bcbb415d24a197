//! Indexing of values by keys and by offsets.

use std::ops;

use crate::{Map, Value};

/// A key of an object or an offset in a list.
pub trait Index {
    #[doc(hidden)]
    fn get<'v>(&self, value: &'v Value) -> Option<&'v Value>;
    #[doc(hidden)]
    fn get_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value>;
    /// The slot of an assignment. A key is added if the object lacks it, and null becomes an object.
    #[doc(hidden)]
    fn slot<'v>(&self, value: &'v mut Value) -> &'v mut Value;
}

impl Index for usize {
    #[inline]
    fn get<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.as_array()?.get(*self)
    }

    fn get_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.as_array_mut()?.get_mut(*self)
    }

    fn slot<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        match value {
            Value::Array(elements) => &mut elements[*self],
            other => panic!("an element of {other}, which is not an array"),
        }
    }
}

impl Index for str {
    #[inline]
    fn get<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        value.as_object()?.get(self)
    }

    fn get_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        value.as_object_mut()?.get_mut(self)
    }

    fn slot<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        if value.is_null() {
            *value = Value::Object(Map::new());
        }
        match value {
            Value::Object(members) => members.entry(self).or_default(),
            other => panic!("a member of {other}, which is not an object"),
        }
    }
}

impl Index for String {
    #[inline]
    fn get<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        Index::get(self.as_str(), value)
    }

    fn get_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        Index::get_mut(self.as_str(), value)
    }

    fn slot<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        Index::slot(self.as_str(), value)
    }
}

impl<T: Index + ?Sized> Index for &T {
    #[inline]
    fn get<'v>(&self, value: &'v Value) -> Option<&'v Value> {
        (**self).get(value)
    }

    fn get_mut<'v>(&self, value: &'v mut Value) -> Option<&'v mut Value> {
        (**self).get_mut(value)
    }

    fn slot<'v>(&self, value: &'v mut Value) -> &'v mut Value {
        (**self).slot(value)
    }
}

/// The element or the member; null if there is none.
impl<I: Index> ops::Index<I> for Value {
    type Output = Value;

    #[inline]
    fn index(&self, index: I) -> &Value {
        static NULL: Value = Value::Null;
        index.get(self).unwrap_or(&NULL)
    }
}

/// # Panics
///
/// If the value has another type than the index needs, or the array is too short.
impl<I: Index> ops::IndexMut<I> for Value {
    fn index_mut(&mut self, index: I) -> &mut Value {
        index.slot(self)
    }
}
