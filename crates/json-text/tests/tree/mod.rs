//! A reader of whole values for the comparison with `serde_json`. The fuzz targets include this file as well.

use json_text::{Cursor, SyntaxError};
use json_tree::{Map, Value};

/// The value as a tree, read by the cursor.
pub fn tree(cursor: &mut Cursor<'_>) -> Result<Value, SyntaxError> {
    Ok(match cursor.peek()? {
        b'{' => {
            let mut object = Map::new();
            let mut members = cursor.object()?;
            while let Some(key) = members.next_key(cursor)? {
                object.insert(key.decode()?.into_owned(), tree(cursor)?);
            }
            object.into()
        }
        b'[' => {
            let mut array = Vec::new();
            let mut elements = cursor.array()?;
            while elements.next(cursor)? {
                array.push(tree(cursor)?);
            }
            array.into()
        }
        b'"' => cursor.string()?.decode()?.into(),
        b'n' => {
            cursor.null()?;
            Value::Null
        }
        b't' | b'f' => cursor.bool()?.into(),
        _ => {
            let at = cursor.offset();
            let number = cursor.number()?;
            serde_json::from_str(number).map_err(|_| SyntaxError::Unexpected(at))?
        }
    })
}
