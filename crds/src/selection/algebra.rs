//! The algebra of normal equations, in operations that give the same digits on every machine: + − × ÷ √ alone.

/// Adds x·xᵀ to a square matrix.
pub fn add_square(gram: &mut [f64], x: &[f64]) {
    let p = x.len();
    for (row, a) in gram.chunks_exact_mut(p).zip(x).filter(|(_, a)| **a != 0.0) {
        row.iter_mut().zip(x).for_each(|(sum, b)| *sum += a * b);
    }
}

/// The findings of a sweep of a matrix XᵀX.
#[derive(Clone, Debug)]
pub struct Swept {
    /// By column: whether it does not depend on those before it.
    pub independent: Vec<bool>,
    /// The natural logarithm of the determinant of the independent columns.
    pub log_determinant: f64,
}

impl Swept {
    /// Independent columns.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.independent.iter().filter(|is| **is).count()
    }

    /// |XᵀX|^(1/rank)/rows.
    #[must_use]
    pub fn efficiency(&self, rows: f64) -> f64 {
        (self.log_determinant / self.rank().max(1) as f64).exp() / rows
    }
}

/// A column whose square keeps less than this share of itself once those before it are taken out depends on them.
const DEPENDENT: f64 = 1e-9;

/// Sweeps XᵀX (Goodnight, *A tutorial on the SWEEP operator*, 1979): afterwards the independent rows and columns hold
/// (XᵀX)⁻¹, and the other columns hold their coefficients on the independent ones.
pub fn sweep(gram: &mut [f64], p: usize) -> Swept {
    let squares: Vec<f64> = (0..p).map(|at| gram[at * p + at]).collect();
    let mut independent = vec![false; p];
    let mut log_determinant = 0.0;
    let mut pivots = vec![0.0; p];
    for at in 0..p {
        let pivot = gram[at * p + at];
        if pivot <= DEPENDENT * squares[at] || pivot <= 0.0 {
            continue;
        }
        independent[at] = true;
        log_determinant += pivot.ln();
        pivots.copy_from_slice(&gram[at * p..(at + 1) * p]);
        pivots.iter_mut().for_each(|entry| *entry /= pivot);
        for row in (0..p).filter(|row| *row != at) {
            let of_row = &mut gram[row * p..(row + 1) * p];
            let factor = of_row[at];
            if factor != 0.0 {
                of_row
                    .iter_mut()
                    .zip(&pivots)
                    .for_each(|(entry, of)| *entry -= factor * of);
            }
            of_row[at] = -factor / pivot;
        }
        gram[at * p..(at + 1) * p].copy_from_slice(&pivots);
        gram[at * p + at] = 1.0 / pivot;
    }
    Swept {
        independent,
        log_determinant,
    }
}

/// xᵀy, summed in the same order everywhere.
#[must_use]
pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Mx for a symmetric M, by its rows: sums run side by side, and nothing is done for zeros.
pub fn times(matrix: &[f64], x: &[f64], product: &mut Vec<f64>) {
    product.clear();
    product.resize(x.len(), 0.0);
    for (row, x) in matrix
        .chunks_exact(x.len())
        .zip(x)
        .filter(|(_, x)| **x != 0.0)
    {
        product
            .iter_mut()
            .zip(row)
            .for_each(|(sum, entry)| *sum += x * entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_swept_is_inverted() {
        let rows = [
            [1.0, 1.0, 2.0],
            [1.0, 2.0, 0.0],
            [1.0, 4.0, 1.0],
            [1.0, -1.0, 3.0],
        ];
        let mut gram = vec![0.0; 9];
        rows.iter().for_each(|row| add_square(&mut gram, row));
        let before = gram.clone();
        let found = sweep(&mut gram, 3);
        assert_eq!(found.rank(), 3);
        for at in 0..3 {
            let unit = (0..3).map(|k| (0..3).map(|j| before[at * 3 + j] * gram[j * 3 + k]).sum());
            for (k, entry) in unit.enumerate() {
                let entry: f64 = entry;
                assert!((entry - f64::from(u8::from(k == at))).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_dependent_column_shows_its_parts() {
        let mut gram = vec![0.0; 9];
        for x in [1.0, 2.0, 4.0] {
            add_square(&mut gram, &[1.0, x, 3.0 - 2.0 * x]);
        }
        let found = sweep(&mut gram, 3);
        assert_eq!(found.independent, [true, true, false]);
        assert!((gram[2] - 3.0).abs() < 1e-9 && (gram[5] + 2.0).abs() < 1e-9);
    }
}
