//! Tables of text in columns.

/// The rows with aligned columns, `gap` spaces apart, one per line. The last cell of a row may be longer than its column,
/// and nothing follows it.
pub fn table<R: AsRef<[String]>>(rows: &[R], gap: usize) -> String {
    let rows = rows.iter().map(AsRef::as_ref);
    let mut widths: Vec<usize> = Vec::new();
    for row in rows.clone() {
        let cells = row.split_last().map_or(&[][..], |(_, cells)| cells);
        widths.resize(widths.len().max(cells.len()), 0);
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String]| {
        let widths = widths.iter().chain(std::iter::once(&0));
        let cells = row.iter().zip(widths);
        let cells = cells.map(|(cell, width)| format!("{cell:width$}{:gap$}", ""));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_last_cells_are_free() {
        let rows = [
            vec!["STEP", "POD", "ACTION"],
            vec!["1", "dä-10", "restart"],
            vec!["2", "a long text that ends the row"],
            vec!["", "", ""],
        ];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect::<Vec<String>>());
        let expected = "\
STEP  POD    ACTION
1     dä-10  restart
2     a long text that ends the row

";
        assert_eq!(table(&rows, 2), expected);
    }
}
