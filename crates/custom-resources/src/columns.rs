//! The table of a custom kind: the columns in its definition.

use jiff::Timestamp;
use json_tree::{Number, Value, json};
use object_model::duration;
use resource_kinds::{Cell, Column, table};

use crate::facts::text;
use crate::json_path::JsonPath;

const AGE: Column<'static> = Column {
    name: "Age",
    kind: "date",
    format: "",
    description: "Time since the object was created.",
    priority: 0,
};

/// The columns of one version of a definition.
#[derive(Debug)]
pub(crate) struct Columns {
    named: Vec<Named>,
    /// Whether the table has an age column, as for a definition without columns.
    age: bool,
}

/// A column from the definition.
#[derive(Debug)]
struct Named {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: u8,
    path: JsonPath,
}

impl Columns {
    pub(crate) fn from_version(version: &Value) -> Self {
        let columns = version["additionalPrinterColumns"].as_array();
        let columns = columns.map_or(&[][..], Vec::as_slice);
        Self {
            // As upstream, the table ends before the first column whose path has no meaning.
            named: columns.iter().map_while(Named::from_json).collect(),
            age: columns.is_empty(),
        }
    }

    pub(crate) fn headings(&self) -> Vec<Column<'_>> {
        let mut all = vec![table::NAME];
        all.extend(self.named.iter().map(Named::heading));
        all.extend(self.age.then_some(AGE));
        all
    }

    pub(crate) fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let metadata = &object["metadata"];
        let mut cells = vec![metadata["name"].clone()];
        let named = self.named.iter();
        cells.extend(named.map(|column| cell(column.path.first(object), &column.kind, now)));
        let created = metadata["creationTimestamp"].as_str();
        cells.extend(self.age.then(|| json!(duration::age(created, now))));
        cells
    }
}

impl Named {
    /// `None` if the path of the column cannot be parsed.
    fn from_json(column: &Value) -> Option<Self> {
        let source = column["jsonPath"].as_str()?;
        let description = text(&column["description"]);
        Some(Self {
            name: text(&column["name"]),
            kind: text(&column["type"]),
            format: text(&column["format"]),
            description: match description.is_empty() {
                true => {
                    format!("Custom resource definition column (in JSONPath format): {source}")
                }
                false => description,
            },
            priority: u8::from(column["priority"].as_i64().unwrap_or_default() > 0),
            path: JsonPath::parse(source)?,
        })
    }

    fn heading(&self) -> Column<'_> {
        Column {
            name: &self.name,
            kind: &self.kind,
            format: &self.format,
            description: &self.description,
            priority: self.priority,
        }
    }
}

/// A cell of the column's type, from the first value at its path; null for a value of another type.
fn cell(value: Option<&Value>, kind: &str, now: Timestamp) -> Cell {
    let Some(value) = value else {
        return Value::Null;
    };
    match (kind, value) {
        (_, Value::Null) => Value::Null,
        ("date", Value::String(text)) if text.is_empty() => json!(duration::age(None, now)),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(_) => json!(duration::age(Some(text), now)),
            Err(_) => json!("<invalid>"),
        },
        ("integer", Value::Number(number)) => whole(number).unwrap_or_default(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("string", Value::String(text)) => json!(text),
        ("string", _) => json!(value.to_string()),
        _ => Value::Null,
    }
}

/// The whole part of a number; `None` outside of the range of whole numbers.
#[expect(clippy::cast_possible_truncation, reason = "in range, as just checked")]
fn whole(number: &Number) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let cut = || {
        let number = number.as_f64()?;
        (number.abs() <= EXACT).then(|| json!(number.trunc() as i64))
    };
    number.as_i64().map(|number| json!(number)).or_else(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As upstream's `tableconvertor`. findings-2 E14, K8
    #[test]
    fn cells_have_the_type_of_their_column() {
        let object = json!({"metadata": {"name": "a"}, "n": 2.5, "i": 3, "b": true, "t": "x", "o": {"a": [1]},
            "d": "2026-01-01T00:00:00Z", "e": "", "w": "x", "v": null,
            "list": [{"k": "a", "v": "one"}, {"k": "b", "v": "two"}], "plain": ["x", "y"]});
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        for (kind, path, expected) in [
            ("integer", ".n", json!(2)),
            ("integer", ".i", json!(3)),
            ("integer", ".t", json!(null)),
            ("number", ".i", json!(3)),
            ("number", ".n", json!(2.5)),
            ("boolean", ".b", json!(true)),
            ("boolean", ".t", json!(null)),
            ("string", ".t", json!("x")),
            ("string", ".b", json!("true")),
            ("string", ".o", json!("{\"a\":[1]}")),
            ("string", ".none", json!(null)),
            ("string", ".v", json!(null)),
            ("date", ".d", json!("60s")),
            ("date", ".e", json!("<unknown>")),
            ("date", ".w", json!("<invalid>")),
            ("string", ".list[*].v", json!("one")),
            ("string", ".list[].v", json!("one")),
            ("string", ".list[?(@.k==\"b\")].v", json!("two")),
            ("string", ".plain[?(@ == \"y\")]", json!("y")),
        ] {
            let version = json!({"additionalPrinterColumns": [
                {"name": "A", "type": kind, "jsonPath": path}]});
            let columns = Columns::from_version(&version);
            assert_eq!(
                columns.row(&object, now),
                [json!("a"), expected],
                "{kind} {path}"
            );
            let description =
                format!("Custom resource definition column (in JSONPath format): {path}");
            assert_eq!(columns.headings()[1].description, description);
        }
    }

    #[test]
    fn a_table_ends_before_a_path_without_meaning() {
        let column = |path: &str| json!({"name": path, "type": "string", "jsonPath": path});
        let version =
            json!({"additionalPrinterColumns": [column(".a"), column(".a[x]"), column(".b")]});
        let columns = Columns::from_version(&version);
        let names: Vec<&str> = columns
            .headings()
            .iter()
            .map(|column| column.name)
            .collect();
        assert_eq!(names, ["Name", ".a"]);
    }
}
