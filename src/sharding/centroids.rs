//! Vectors: each is stored on the shard of the centroid nearest to it, and searched for near several.

use super::shards::Shards;

/// Points that divide the space of vectors. The n-th is on shard n modulo the number of shards.
#[derive(Clone, Debug, PartialEq)]
pub struct Centroids {
    points: Vec<Vec<f32>>,
    probes: usize,
}

impl Centroids {
    /// `probes` of 0 means the square root of their number, rounded up.
    ///
    /// Errors: no centroids, or of different dimensions, or not finite.
    pub fn new(points: Vec<Vec<f32>>, probes: usize) -> Result<Self, String> {
        let Some(first) = points.first() else {
            return Err("a vector is sharded by centroids, but there are none".to_owned());
        };
        if first.is_empty() || points.iter().any(|point| point.len() != first.len()) {
            return Err("centroids must have the same number of dimensions".to_owned());
        }
        if points.iter().flatten().any(|number| !number.is_finite()) {
            return Err("centroids must be finite numbers".to_owned());
        }
        let probes = match probes {
            0 => points.len().isqrt() + usize::from(!is_square(points.len())),
            probes => probes.min(points.len()),
        };
        Ok(Self { points, probes })
    }

    /// Where a vector is stored: at the nearest centroid by Euclidean distance, of equally near ones the first. `None`
    /// if it has another number of dimensions.
    pub fn shard(&self, vector: &[f32], shards: u32) -> Option<u32> {
        let distances = self.distances(vector)?;
        let nearest = distances.min_by(|a, b| a.0.total_cmp(&b.0))?;
        number(nearest.1, shards)
    }

    /// Where the nearest neighbours of a vector are looked for: at the centroids nearest to it, `probes` of them.
    /// `None` if it has another number of dimensions.
    pub fn probe(&self, vector: &[f32], shards: u32) -> Option<Shards> {
        let mut distances: Vec<_> = self.distances(vector)?.collect();
        distances.sort_by(|a, b| a.0.total_cmp(&b.0));
        let nearest = distances.iter().take(self.probes);
        nearest.map(|(_, at)| number(*at, shards)).collect()
    }

    /// Squared distances with the centroids' positions.
    fn distances<'a>(
        &'a self,
        vector: &'a [f32],
    ) -> Option<impl Iterator<Item = (f64, usize)> + 'a> {
        let dimensions = self.points.first()?.len();
        if vector.len() != dimensions {
            return None;
        }
        let distance = move |point: &Vec<f32>| {
            let differences = point
                .iter()
                .zip(vector)
                .map(|(a, b)| f64::from(*a) - f64::from(*b));
            differences.map(|difference| difference * difference).sum()
        };
        let distances = self.points.iter().map(distance);
        Some(distances.zip(0..))
    }
}

fn is_square(number: usize) -> bool {
    number.isqrt().pow(2) == number
}

fn number(centroid: usize, shards: u32) -> Option<u32> {
    let shards = usize::try_from(shards).ok()?;
    u32::try_from(centroid.checked_rem(shards)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(count: u16, probes: usize) -> Centroids {
        let points = (0..count).map(|at| vec![f32::from(at), 0.0]).collect();
        Centroids::new(points, probes).unwrap()
    }

    #[test]
    fn the_nearest_centroid_has_it() {
        let centroids = line(5, 0);
        for (x, shard) in [(0.2, 0), (1.6, 2), (3.1, 0), (4.0, 1), (99.0, 1), (0.5, 0)] {
            assert_eq!(centroids.shard(&[x, 7.0], 3), Some(shard), "{x}");
        }
        assert_eq!(centroids.shard(&[1.0], 3), None, "of another dimension");
    }

    #[test]
    fn probes_look_at_several() {
        for (count, probes, expected) in [(4, 0, 2), (5, 0, 3), (9, 0, 3), (5, 1, 1), (5, 9, 5)] {
            let shards = line(count, probes).probe(&[0.0, 0.0], 16).unwrap();
            assert_eq!(shards, Shards::all(expected), "{count} {probes}");
        }
        // Two of the three nearest are on the same shard.
        let found = line(5, 3).probe(&[1.0, 0.0], 2).unwrap();
        assert_eq!(found, Shards::all(2));
    }

    #[test]
    fn what_is_no_set_of_centroids() {
        for points in [
            vec![],
            vec![vec![]],
            vec![vec![1.0], vec![1.0, 2.0]],
            vec![vec![f32::NAN]],
        ] {
            assert!(Centroids::new(points, 0).is_err());
        }
    }
}
