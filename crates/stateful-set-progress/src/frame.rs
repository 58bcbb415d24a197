//! The text of the progress of sets: a table that fits into a terminal, or a line for each change.

use std::collections::BTreeMap;

use cluster_inspection::pod_row::{PodRow, in_namespace};
use command_output::terminal::{Size, clip};

use crate::view::SetProgress;

/// Maximum width of a column: one long text must not push the other columns out of the screen.
const COLUMN_MAX: usize = 40;

/// The table, cut to a terminal's size; the last line of the terminal stays free for the cursor. If not all
/// ordinals fit, those that are not ready have priority.
pub fn frame(views: &[SetProgress], size: Size) -> Vec<String> {
    let rows_max = size.height.saturating_sub(1).max(1);
    let all: usize = views.iter().map(|view| 1 + view.rows.len()).sum();
    let is_printed = |row: &&PodRow| all <= rows_max || !row.ready;
    let printed = || views.iter().flat_map(|view| &view.rows).filter(is_printed);
    let widths = [
        column(printed().map(|row| &row.pod)),
        column(printed().map(state).collect::<Vec<_>>().iter()),
        column(printed().filter_map(|row| row.node.as_ref())),
    ];
    let mut lines = Vec::new();
    for view in views {
        lines.push(heading(view));
        let rows = view.rows.iter().filter(is_printed);
        lines.extend(rows.map(|row| line(row, widths)));
    }
    if lines.len() > rows_max {
        lines.truncate(rows_max - 1);
        let hidden = all - lines.len();
        lines.push(format!("… and {hidden} more lines: mainstay status"));
    }
    lines.iter().map(|line| clip(line, size.width)).collect()
}

fn column<'t>(texts: impl Iterator<Item = &'t String>) -> usize {
    let widest = texts.map(|text| text.chars().count()).max();
    widest.unwrap_or(0).min(COLUMN_MAX)
}

fn heading(view: &SetProgress) -> String {
    let ready = view.rows.iter().filter(|row| row.ready).count();
    let (title, all) = (view.set.title(), view.rows.len());
    if !view.exists {
        return format!("statefulset {title}: does not exist");
    }
    format!("statefulset {title}: {ready}/{all} ready")
}

/// The state of an ordinal, such as `0/1 Pending`.
fn state(row: &PodRow) -> String {
    let text = format!("{} {}", row.containers, row.state);
    text.trim_start().to_owned()
}

fn line(row: &PodRow, [pod, wide, nodes]: [usize; 3]) -> String {
    let mark = if row.ready { "✓" } else { "·" };
    let more = row.reason.as_ref().unwrap_or(&row.address);
    let node = match (nodes, &row.node) {
        (0, _) => String::new(),
        (_, node) => format!("{:nodes$}  ", node.as_deref().unwrap_or_default()),
    };
    let line = format!(
        "  {mark} {:pod$}  {:wide$}  {node}{more}",
        row.pod,
        state(row)
    );
    line.trim_end().to_owned()
}

/// The lines for a pipe or a log: one for each ordinal whose state has changed.
pub fn changes(printed: &mut BTreeMap<String, String>, views: &[SetProgress]) -> Vec<String> {
    let mut lines = Vec::new();
    for view in views {
        for row in &view.rows {
            let pod = in_namespace(&view.set.namespace, &row.pod);
            let more = match (&row.reason, row.address.as_str()) {
                (Some(reason), _) => format!(" ({reason})"),
                (None, "") => String::new(),
                (None, address) => format!(" {address}"),
            };
            let node = row.node.as_ref().map(|node| format!(" on {node}"));
            let node = node.unwrap_or_default();
            let text = format!("{pod}: {}{node}{more}", state(row));
            if printed.get(&pod) != Some(&text) {
                printed.insert(pod, text.clone());
                lines.push(text);
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::WatchedSet;

    fn row(pod: &str, state: &str, ready: bool) -> PodRow {
        PodRow {
            pod: pod.to_owned(),
            containers: if ready { "1/1" } else { "0/1" }.to_owned(),
            state: state.to_owned(),
            ready,
            ..PodRow::default()
        }
    }

    fn set(name: &str, rows: Vec<PodRow>) -> SetProgress {
        SetProgress {
            set: WatchedSet {
                namespace: "default".to_owned(),
                name: name.to_owned(),
            },
            exists: true,
            rows,
        }
    }

    fn refused() -> PodRow {
        PodRow {
            reason: Some("image \"no/such\" cannot be pulled: not found".to_owned()),
            ..row("web-1", "ErrImagePull", false)
        }
    }

    fn running() -> PodRow {
        PodRow {
            address: "10.244.0.2".to_owned(),
            ..row("web-0", "Running", true)
        }
    }

    fn size(width: usize, height: usize) -> Size {
        Size { width, height }
    }

    /// Findings U4: the reason is printed with the state.
    #[test]
    fn the_table_counts_what_is_ready_and_says_why_the_rest_is_not() {
        let views = [set("web", vec![running(), refused()])];
        assert_eq!(
            frame(&views, size(80, 24)),
            [
                "statefulset web: 1/2 ready",
                "  ✓ web-0  1/1 Running       10.244.0.2",
                "  · web-1  0/1 ErrImagePull  image \"no/such\" cannot be pulled: not found",
            ]
        );
    }

    #[test]
    fn the_nodes_are_shown_if_the_rows_name_them() {
        let on = |node: &str, row: PodRow| PodRow {
            node: Some(node.to_owned()),
            ..row
        };
        let waits = row("web-2", "waiting for its turn", false);
        let rows = vec![on("a", running()), on("node-b", refused()), waits];
        let views = [set("web", rows)];
        assert_eq!(
            frame(&views, size(80, 24)),
            [
                "statefulset web: 1/3 ready",
                "  ✓ web-0  1/1 Running               a       10.244.0.2",
                "  · web-1  0/1 ErrImagePull          node-b  image \"no/such\" cannot be pulled:…",
                "  · web-2  0/1 waiting for its turn",
            ]
        );
        let lines = changes(&mut BTreeMap::new(), &views);
        assert_eq!(lines[0], "web-0: 1/1 Running on a 10.244.0.2");
    }

    /// Findings U4: garbled in small terminals.
    #[test]
    fn the_table_fits_into_any_terminal() {
        let many = (0..30).map(|ordinal| row(&format!("db-{ordinal}"), "Running", ordinal != 7));
        let views = [
            set("web", vec![running(), refused()]),
            set("db", many.collect()),
        ];
        for width in [1, 5, 20, 40, 200] {
            for height in [1, 2, 3, 5, 10, 24, 100] {
                let lines = frame(&views, size(width, height));
                assert!(lines.len() <= height.saturating_sub(1).max(1), "{lines:?}");
                let wide = lines.iter().find(|line| line.chars().count() > width);
                assert_eq!(wide, None, "{width}");
            }
        }
        assert_eq!(
            frame(&views, size(34, 6)),
            [
                "statefulset web: 1/2 ready",
                "  · web-1  0/1 ErrImagePull  imag…",
                "statefulset db: 29/30 ready",
                "  · db-7   0/1 Running",
            ]
        );
        assert_eq!(
            frame(&views, size(80, 4)),
            [
                "statefulset web: 1/2 ready",
                "  · web-1  0/1 ErrImagePull  image \"no/such\" cannot be pulled: not found",
                "… and 32 more lines: mainstay status",
            ]
        );
    }

    #[test]
    fn a_set_that_was_deleted_is_told_from_one_without_pods() {
        let mut views = [set("web", Vec::new())];
        let lines = frame(&views, size(80, 24));
        assert_eq!(lines, ["statefulset web: 0/0 ready"]);
        views[0].exists = false;
        let lines = frame(&views, size(80, 24));
        assert_eq!(lines, ["statefulset web: does not exist"]);
    }

    #[test]
    fn a_log_line_appears_once_per_change() {
        let mut printed = BTreeMap::new();
        let pending = [set("web", vec![row("web-0", "Pending", false)])];
        assert_eq!(changes(&mut printed, &pending), ["web-0: 0/1 Pending"]);
        assert_eq!(changes(&mut printed, &pending), Vec::<String>::new());
        let running = [set("web", vec![running()])];
        assert_eq!(
            changes(&mut printed, &running),
            ["web-0: 1/1 Running 10.244.0.2"]
        );
        let refused = [set("web", vec![refused()])];
        assert_eq!(
            changes(&mut printed, &refused),
            ["web-1: 0/1 ErrImagePull (image \"no/such\" cannot be pulled: not found)"]
        );
        // The same name in another namespace is another pod.
        let mut elsewhere = [set("web", vec![row("web-0", "Pending", false)])];
        elsewhere[0].set.namespace = "shop".to_owned();
        assert_eq!(
            changes(&mut printed, &elsewhere),
            ["shop/web-0: 0/1 Pending"]
        );
    }
}
