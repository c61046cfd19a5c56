//! Least squares by normal equations: many small problems that share their columns.

use inferbench_crds::selection::algebra::{dot, sweep};

/// The normal equations of a problem: all that least squares needs to know of its rows.
#[derive(Clone, Debug)]
pub(crate) struct Normal {
    columns: usize,
    /// XᵀX, row by row.
    gram: Vec<f64>,
    /// Xᵀy.
    target: Vec<f64>,
    /// yᵀy.
    squares: f64,
}

/// Some of the columns, fitted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fitted {
    /// One coefficient per fitted column; 0 for one that depends on those before it.
    pub coefficients: Vec<f64>,
    /// Sum of the squared residuals.
    pub residual: f64,
    /// Columns that do not depend on those before them.
    pub rank: usize,
}

/// A column whose square keeps less than this share of itself once those before it are taken out depends on them.
const DEPENDENT: f64 = 1e-9;

impl Normal {
    pub fn new(columns: usize) -> Self {
        Self {
            columns,
            gram: vec![0.0; columns * columns],
            target: vec![0.0; columns],
            squares: 0.0,
        }
    }

    /// Adds a row, given by its columns that are not 0.
    pub fn add(&mut self, row: &[(usize, f64)], y: f64) {
        for &(i, a) in row {
            for &(j, b) in row {
                self.gram[i * self.columns + j] += a * b;
            }
            self.target[i] += a * y;
        }
        self.squares += y * y;
    }

    /// Adds the columns of a row that are 1, without a target.
    pub fn add_columns(&mut self, ones: &[usize]) {
        for i in ones {
            for j in ones {
                self.gram[i * self.columns + j] += 1.0;
            }
        }
    }

    /// Adds the target of a row whose columns were added before.
    pub fn add_target(&mut self, ones: &[usize], y: f64) {
        for i in ones {
            self.target[*i] += y;
        }
        self.squares += y * y;
    }

    /// The triangle of some columns, for any target.
    pub fn factor(&self, columns: &[usize]) -> Factored {
        let p = columns.len();
        let mut lower = vec![0.0; p * p];
        let mut rank = 0;
        for i in 0..p {
            let (done, row) = lower.split_at_mut(i * p);
            for j in 0..=i {
                let gram = self.gram[columns[i] * self.columns + columns[j]];
                if j < i {
                    let (above, diagonal) = (&done[j * p..j * p + j], done[j * p + j]);
                    row[j] = if diagonal > 0.0 {
                        (gram - dot(&row[..j], above)) / diagonal
                    } else {
                        0.0
                    };
                } else {
                    let rest = gram - dot(&row[..i], &row[..i]);
                    if rest > DEPENDENT * gram && rest > 0.0 {
                        row[i] = rest.sqrt();
                        rank += 1;
                    }
                }
            }
        }
        Factored {
            columns: columns.to_vec(),
            lower,
            rank,
        }
    }

    /// Fits some columns.
    pub fn fit(&self, columns: &[usize]) -> Fitted {
        self.fit_factored(&self.factor(columns))
    }

    /// Fits columns that were factored before, of these or of other rows alike.
    pub fn fit_factored(&self, model: &Factored) -> Fitted {
        model.fit(&self.target, self.squares)
    }
}

/// The columns of a problem that have been factored once, for many targets.
#[derive(Clone, Debug)]
pub(crate) struct Factored {
    columns: Vec<usize>,
    lower: Vec<f64>,
    rank: usize,
}

impl Factored {
    /// Fits `target` = Xᵀy (of all columns of the problem) and `squares` = yᵀy.
    fn fit(&self, target: &[f64], squares: f64) -> Fitted {
        let p = self.columns.len();
        let mut z = vec![0.0; p];
        for i in 0..p {
            let row = &self.lower[i * p..i * p + i + 1];
            if row[i] > 0.0 {
                z[i] = (target[self.columns[i]] - dot(&row[..i], &z[..i])) / row[i];
            }
        }
        let residual = (squares - dot(&z, &z)).max(0.0);
        let mut coefficients = z;
        for i in (0..p).rev() {
            let diagonal = self.lower[i * p + i];
            if diagonal > 0.0 {
                let below: f64 = (i + 1..p)
                    .map(|k| self.lower[k * p + i] * coefficients[k])
                    .sum();
                coefficients[i] = (coefficients[i] - below) / diagonal;
            }
        }
        Fitted {
            coefficients,
            residual,
            rank: self.rank,
        }
    }
}

/// (XᵀX)⁻¹ over the columns that do not depend on those before them.
#[derive(Clone, Debug)]
pub(crate) struct Inverse {
    swept: Vec<f64>,
    independent: Vec<bool>,
}

/// Inverts XᵀX.
pub(crate) fn invert(mut gram: Vec<f64>, columns: usize) -> Inverse {
    let independent = sweep(&mut gram, columns).independent;
    Inverse {
        swept: gram,
        independent,
    }
}

impl Inverse {
    /// Columns that do not depend on those before them.
    pub fn rank(&self) -> usize {
        self.independent.iter().filter(|is| **is).count()
    }

    /// (XᵀX)⁻¹x; 0 at columns that depend on others.
    pub fn times(&self, x: &[f64]) -> Vec<f64> {
        let p = self.independent.len();
        let entry = |row: usize| -> f64 {
            let entries = self.swept[row * p..(row + 1) * p].iter().zip(x);
            entries
                .zip(&self.independent)
                .filter(|(_, independent)| **independent)
                .map(|((entry, x), _)| entry * x)
                .sum()
        };
        (0..p)
            .map(|row| {
                if self.independent[row] {
                    entry(row)
                } else {
                    0.0
                }
            })
            .collect()
    }

    /// Whether the rows tell a linear function of the coefficients: no combination of columns that makes nothing has a
    /// part in it, but for this much.
    pub fn tells(&self, contrast: &[f64], part: f64) -> bool {
        let p = self.independent.len();
        (0..p)
            .filter(|column| !self.independent[*column])
            .all(|dependent| {
                let others = (0..p).filter(|row| self.independent[*row]);
                let made: f64 = others
                    .map(|row| contrast[row] * self.swept[row * p + dependent])
                    .sum();
                (contrast[dependent] - made).abs() <= part
            })
    }
}

/// The coefficients, none of them negative, with the least residual: the best of the fits of every subset of the
/// columns that has none below 0. Exact, and quick enough for a handful of columns.
pub(crate) fn non_negative(normal: &Normal) -> Vec<f64> {
    let p = normal.columns;
    let mut best = (normal.squares, vec![0.0; p]);
    for subset in 1_u32..1 << p {
        let columns: Vec<usize> = (0..p).filter(|i| subset >> i & 1 == 1).collect();
        let fitted = normal.fit(&columns);
        if fitted.rank == columns.len()
            && fitted.residual < best.0
            && fitted.coefficients.iter().all(|c| *c >= 0.0)
        {
            let mut coefficients = vec![0.0; p];
            for (column, coefficient) in columns.iter().zip(&fitted.coefficients) {
                coefficients[*column] = *coefficient;
            }
            best = (fitted.residual, coefficients);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(rows: &[(&[f64], f64)]) -> Normal {
        let mut normal = Normal::new(rows[0].0.len());
        for (x, y) in rows {
            let row: Vec<(usize, f64)> = x.iter().copied().enumerate().collect();
            normal.add(&row, *y);
        }
        normal
    }

    #[test]
    fn a_line_is_found() {
        let normal = problem(&[(&[1.0, 1.0], 5.0), (&[1.0, 2.0], 7.0), (&[1.0, 4.0], 11.0)]);
        let fitted = normal.fit(&[0, 1]);
        assert!(fitted.residual < 1e-12 && fitted.rank == 2);
        assert!((fitted.coefficients[0] - 3.0).abs() < 1e-12);
        assert!((fitted.coefficients[1] - 2.0).abs() < 1e-12);
    }

    #[test]
    fn a_dependent_column_is_left_out() {
        let normal = problem(&[
            (&[1.0, 1.0, 2.0], 5.0),
            (&[1.0, 2.0, 4.0], 7.0),
            (&[1.0, 4.0, 8.0], 11.0),
        ]);
        let fitted = normal.fit(&[0, 1, 2]);
        assert_eq!((fitted.rank, fitted.coefficients[2]), (2, 0.0));
        assert!(fitted.residual < 1e-9);
    }

    #[test]
    fn what_would_be_negative_is_nought() {
        // y falls with x: the best non-negative slope is 0, and the constant the mean.
        let normal = problem(&[(&[1.0, 1.0], 3.0), (&[1.0, 2.0], 2.0), (&[1.0, 3.0], 1.0)]);
        let coefficients = non_negative(&normal);
        assert!((coefficients[0] - 2.0).abs() < 1e-12 && coefficients[1] == 0.0);
    }
}
