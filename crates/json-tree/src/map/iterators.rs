//! Iterators over the entries, in their order.

use std::iter::FusedIterator;
use std::{slice, vec};

use super::OrderedMap;

macro_rules! iterator {
    ($(#[$about:meta])* $name:ident<$($lifetime:lifetime)?>, $inner:ty, $item:ty, $of:expr) => {
        $(#[$about])*
        #[derive(Debug)]
        pub struct $name<$($lifetime,)? K, V> {
            entries: $inner,
        }

        impl<$($lifetime,)? K, V> Iterator for $name<$($lifetime,)? K, V> {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<$item> {
                self.entries.next().map($of)
            }

            #[inline]
            fn size_hint(&self) -> (usize, Option<usize>) {
                self.entries.size_hint()
            }
        }

        impl<$($lifetime,)? K, V> DoubleEndedIterator for $name<$($lifetime,)? K, V> {
            #[inline]
            fn next_back(&mut self) -> Option<$item> {
                self.entries.next_back().map($of)
            }
        }

        impl<$($lifetime,)? K, V> ExactSizeIterator for $name<$($lifetime,)? K, V> {}

        impl<$($lifetime,)? K, V> FusedIterator for $name<$($lifetime,)? K, V> {}
    };
}

macro_rules! clone {
    ($($name:ident),*) => {$(
        impl<K, V> Clone for $name<'_, K, V> {
            fn clone(&self) -> Self {
                Self {
                    entries: self.entries.clone(),
                }
            }
        }
    )*};
}

iterator!(
    /// The entries.
    Iter<'a>, slice::Iter<'a, (K, V)>, (&'a K, &'a V), |(key, value)| (key, value)
);
iterator!(
    /// The entries, with values for a change.
    IterMut<'a>, slice::IterMut<'a, (K, V)>, (&'a K, &'a mut V), |(key, value)| (&*key, value)
);
iterator!(
    /// The keys.
    Keys<'a>, slice::Iter<'a, (K, V)>, &'a K, |(key, _)| key
);
iterator!(
    /// The values.
    Values<'a>, slice::Iter<'a, (K, V)>, &'a V, |(_, value)| value
);
iterator!(
    /// The values, for a change.
    ValuesMut<'a>, slice::IterMut<'a, (K, V)>, &'a mut V, |(_, value)| value
);
iterator!(
    /// The entries themselves.
    IntoIter<>, vec::IntoIter<(K, V)>, (K, V), |entry| entry
);
iterator!(
    /// The values themselves.
    IntoValues<>, vec::IntoIter<(K, V)>, V, |(_, value)| value
);
clone!(Iter, Keys, Values);

impl<K, V> OrderedMap<K, V> {
    #[inline]
    pub fn iter(&self) -> Iter<'_, K, V> {
        let entries = self.core.entries.iter();
        Iter { entries }
    }

    #[inline]
    pub fn iter_mut(&mut self) -> IterMut<'_, K, V> {
        let entries = self.core.entries.iter_mut();
        IterMut { entries }
    }

    #[inline]
    pub fn keys(&self) -> Keys<'_, K, V> {
        let entries = self.core.entries.iter();
        Keys { entries }
    }

    #[inline]
    pub fn values(&self) -> Values<'_, K, V> {
        let entries = self.core.entries.iter();
        Values { entries }
    }

    #[inline]
    pub fn values_mut(&mut self) -> ValuesMut<'_, K, V> {
        let entries = self.core.entries.iter_mut();
        ValuesMut { entries }
    }

    #[inline]
    pub fn into_values(self) -> IntoValues<K, V> {
        let entries = self.core.entries.into_iter();
        IntoValues { entries }
    }
}

impl<K, V> IntoIterator for OrderedMap<K, V> {
    type Item = (K, V);
    type IntoIter = IntoIter<K, V>;

    #[inline]
    fn into_iter(self) -> IntoIter<K, V> {
        let entries = self.core.entries.into_iter();
        IntoIter { entries }
    }
}

impl<'a, K, V> IntoIterator for &'a OrderedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a mut OrderedMap<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = IterMut<'a, K, V>;

    fn into_iter(self) -> IterMut<'a, K, V> {
        self.iter_mut()
    }
}
