//! The result table: a figure, its baseline, their ratio, and the target.

use std::path::{Path, PathBuf};

use super::{Outcome, machine};

/// The target for a figure, or for its ratio to the baseline.
#[derive(Clone, Copy)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// For the figure itself, regardless of the baseline.
    ItselfAtMost(f64),
    /// For the figure itself, regardless of the baseline.
    ItselfAtLeast(f64),
}

/// A row of the table.
pub struct Row {
    figure: String,
    value: f64,
    unit: &'static str,
    beside: Option<(String, f64)>,
    target: Option<Target>,
    remark: String,
}

impl Row {
    /// A figure with its unit.
    pub fn new(figure: impl Into<String>, value: f64, unit: &'static str) -> Row {
        Row {
            figure: figure.into(),
            value,
            unit,
            beside: None,
            target: None,
            remark: String::new(),
        }
    }

    /// Sets the baseline, in the same unit. The target then applies to the ratio.
    pub fn beside(mut self, what: impl Into<String>, value: f64) -> Row {
        self.beside = Some((what.into(), value));
        self
    }

    /// Sets the maximum of the figure or its ratio.
    pub fn at_most(self, limit: f64) -> Row {
        Row {
            target: Some(Target::AtMost(limit)),
            ..self
        }
    }

    /// Sets the minimum of the figure or its ratio.
    pub fn at_least(self, limit: f64) -> Row {
        Row {
            target: Some(Target::AtLeast(limit)),
            ..self
        }
    }

    /// Sets the maximum of the figure itself, regardless of the baseline.
    pub fn itself_at_most(self, limit: f64) -> Row {
        Row {
            target: Some(Target::ItselfAtMost(limit)),
            ..self
        }
    }

    /// Sets the minimum of the figure itself, regardless of the baseline.
    pub fn itself_at_least(self, limit: f64) -> Row {
        Row {
            target: Some(Target::ItselfAtLeast(limit)),
            ..self
        }
    }

    /// Adds a remark.
    pub fn remark(mut self, remark: impl Into<String>) -> Row {
        let remark = remark.into();
        if !self.remark.is_empty() && !remark.is_empty() {
            self.remark += "; ";
        }
        self.remark += &remark;
        self
    }

    fn line(&self, bench: &str) -> String {
        let Row {
            figure,
            value,
            unit,
            beside,
            target,
            remark,
        } = self;
        let ratio = beside.as_ref().map(|(_, limit)| value / limit);
        let judged = ratio.unwrap_or(*value);
        let (wanted, reached) = match target {
            Some(Target::AtMost(most)) => (format!("≤ {}", short(*most)), yes(judged <= *most)),
            Some(Target::AtLeast(least)) => (format!("≥ {}", short(*least)), yes(judged >= *least)),
            Some(Target::ItselfAtMost(most)) => {
                (format!("≤ {} {unit}", short(*most)), yes(*value <= *most))
            }
            Some(Target::ItselfAtLeast(least)) => {
                (format!("≥ {} {unit}", short(*least)), yes(*value >= *least))
            }
            None => Default::default(),
        };
        let beside = beside
            .as_ref()
            .map(|(what, limit)| format!("{what}: {} {unit}", short(*limit)))
            .unwrap_or_default();
        let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        format!(
            "| `{bench}` | {figure} | {} {unit} | {beside} | {ratio} | {wanted} | {reached} | {remark} |",
            short(*value)
        )
    }
}

fn yes(is_reached: bool) -> &'static str {
    if is_reached { "yes" } else { "**no**" }
}

/// Formats with three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 10_000.0 => format!("{:.0}k", value / 1_000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        _ => format!("{value:.2}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
    }
}

const HEAD: &str = "| bench | figure | measured | limit beside it | ratio | to reach | reached | |\n|---|---|---|---|---|---|---|---|\n";

/// Prints the rows of a bench, and saves them for the combined table.
pub fn print(bench: &str, rows: &[Row]) -> Outcome<()> {
    let lines: String = rows.iter().map(|row| row.line(bench) + "\n").collect();
    print!("{}\n\n{HEAD}{lines}", machine::description());
    std::fs::create_dir_all(folder())?;
    Ok(std::fs::write(folder().join(format!("{bench}.md")), lines)?)
}

/// Prints the saved rows of these benches, in this order.
pub fn print_all(benches: &[&str]) -> Outcome<()> {
    print!("{}\n\n{HEAD}", machine::description());
    for bench in benches {
        match std::fs::read_to_string(folder().join(format!("{bench}.md"))) {
            Ok(lines) => print!("{lines}"),
            Err(error) => println!("| `{bench}` | not run: {error} | | | | | | |"),
        }
    }
    Ok(())
}

/// Where the rows of each bench are saved.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench")
}

/// The median.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.is_empty() {
        f64::NAN
    } else if figures.len() % 2 == 1 {
        figures[middle]
    } else {
        f64::midpoint(figures[middle - 1], figures[middle])
    }
}
