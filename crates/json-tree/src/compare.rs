//! Comparison of values with texts, numbers and booleans.

use crate::Value;

impl PartialEq<str> for Value {
    #[inline]
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for Value {
    #[inline]
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == Some(*other)
    }
}

impl PartialEq<String> for Value {
    #[inline]
    fn eq(&self, other: &String) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<Value> for str {
    #[inline]
    fn eq(&self, other: &Value) -> bool {
        other == self
    }
}

impl PartialEq<Value> for &str {
    #[inline]
    fn eq(&self, other: &Value) -> bool {
        other == self
    }
}

impl PartialEq<Value> for String {
    #[inline]
    fn eq(&self, other: &Value) -> bool {
        other == self
    }
}

macro_rules! scalars {
    ($($of:ident as $wide:ty: $($scalar:ty)+;)+) => {$($(
        impl PartialEq<$scalar> for Value {
            fn eq(&self, other: &$scalar) -> bool {
                self.$of() == Some(<$wide>::from(*other))
            }
        }

        impl PartialEq<$scalar> for &Value {
            fn eq(&self, other: &$scalar) -> bool {
                **self == *other
            }
        }

        impl PartialEq<$scalar> for &mut Value {
            fn eq(&self, other: &$scalar) -> bool {
                **self == *other
            }
        }

        impl PartialEq<Value> for $scalar {
            fn eq(&self, other: &Value) -> bool {
                other == self
            }
        }
    )+)+};
}

scalars! {
    as_bool as bool: bool;
    as_i64 as i64: i8 i16 i32 i64;
    as_u64 as u64: u8 u16 u32 u64;
    as_f64 as f64: f32 f64;
}

impl PartialEq<usize> for Value {
    fn eq(&self, other: &usize) -> bool {
        self.as_u64() == u64::try_from(*other).ok()
    }
}
