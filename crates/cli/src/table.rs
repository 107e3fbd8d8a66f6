//! Columns as Go's `text/tabwriter` lays them out with Docker's settings.
//!
//! Scripts cut Docker's tables by position, so padding is exact: a column is at least ten wide, has
//! three spaces after its longest cell, and belongs to a run of adjacent lines that all have it.
//! The last cell of a line is not part of any column.

const MINIMUM: usize = 10;
const PADDING: usize = 3;

/// Lays out tab-separated lines.
pub fn columns(text: &str) -> String {
    layout(text, MINIMUM, 1, PADDING)
}

/// The same with other settings, as `top` has them.
pub fn layout(text: &str, minimum: usize, tab: usize, padding: usize) -> String {
    let ends_line = text.ends_with('\n');
    let lines: Vec<Vec<&str>> = text
        .strip_suffix('\n')
        .unwrap_or(text)
        .split('\n')
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|line| vec![0; line.len()]).collect();
    measure(&lines, &mut widths, 0, lines.len(), 0, (minimum, padding));
    let mut out = String::new();
    for (index, (cells, widths)) in lines.iter().zip(&widths).enumerate() {
        if index > 0 {
            out.push('\n');
        }
        for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
            out.push_str(cell);
            if at + 1 < cells.len() {
                let missing = width.saturating_sub(cell.chars().count());
                out.extend(std::iter::repeat_n(' ', missing.max(usize::from(tab == 0))));
            }
        }
    }
    if ends_line {
        out.push('\n');
    }
    out
}

/// Gives each block of adjacent lines that have column `column` its width, and goes on inside it.
fn measure(
    lines: &[Vec<&str>],
    widths: &mut [Vec<usize>],
    from: usize,
    to: usize,
    column: usize,
    (minimum, padding): (usize, usize),
) {
    let has = |line: usize| lines[line].len() > column + 1;
    let mut line = from;
    while line < to {
        if !has(line) {
            line += 1;
            continue;
        }
        let start = line;
        while line < to && has(line) {
            line += 1;
        }
        let longest = lines[start..line]
            .iter()
            .map(|cells| cells[column].chars().count())
            .max()
            .unwrap_or(0);
        let width = minimum.max(longest + padding);
        for row in &mut widths[start..line] {
            row[column] = width;
        }
        measure(lines, widths, start, line, column + 1, (minimum, padding));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_padded_as_docker_pads_them() {
        assert_eq!(
            columns(
                "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\nbusybox\tlatest\t0123456789ab\t2 days ago\t4.2MB\n"
            ),
            "REPOSITORY   TAG       IMAGE ID       CREATED      SIZE\nbusybox      latest    0123456789ab   2 days ago   4.2MB\n"
        );
    }

    #[test]
    fn a_short_line_ends_a_block() {
        assert_eq!(
            columns("a\tb\nc\nddddddddddddd\te\n"),
            "a         b\nc\nddddddddddddd   e\n"
        );
    }

    #[test]
    fn empty_cells_keep_their_column() {
        assert_eq!(
            columns("A\t\tC\nx\ty\tz\n"),
            "A                   C\nx         y         z\n"
        );
    }

    #[test]
    fn width_counts_characters() {
        assert_eq!(columns("öööööööööö\tx\n"), "öööööööööö   x\n");
    }

    #[test]
    fn text_without_tabs_is_left_alone() {
        assert_eq!(columns("one\n\ntwo"), "one\n\ntwo");
        assert_eq!(columns(""), "");
    }
}
