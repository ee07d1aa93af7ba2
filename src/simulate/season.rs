//! The seasons of products, and how busy the shop is.

use std::f32::consts::TAU;

/// The mean length of a year. A day of the year computed with it is right to within a day, which is
/// enough for seasons. No calendar is needed.
const YEAR_DAYS: f64 = 365.242_5;

/// A time of year that some products belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Season {
    /// Sold at any time.
    AllYear,
    /// Seeds, pastels.
    Spring,
    /// Gardens and picnics.
    Summer,
    /// Harvest, first fires.
    Autumn,
    /// Wool and hot drinks.
    Winter,
    /// Trees, wreaths, gifts.
    Christmas,
    /// Eggs and hares.
    Easter,
    /// Pumpkins.
    Halloween,
    /// Hearts.
    Valentine,
}

impl Season {
    /// The feasts that a festive category may make a product for.
    pub const FEASTS: [Self; 4] = [Self::Christmas, Self::Easter, Self::Halloween, Self::Valentine];

    /// Its word in files; empty for all year.
    pub fn word(self) -> &'static str {
        match self {
            Self::AllYear => "",
            Self::Spring => "spring",
            Self::Summer => "summer",
            Self::Autumn => "autumn",
            Self::Winter => "winter",
            Self::Christmas => "christmas",
            Self::Easter => "easter",
            Self::Halloween => "halloween",
            Self::Valentine => "valentine",
        }
    }

    /// The middle of the season and its spread, in days of the year.
    fn peak(self) -> Option<(f32, f32)> {
        match self {
            Self::AllYear => None,
            Self::Spring => Some((100.0, 32.0)),
            Self::Summer => Some((180.0, 34.0)),
            Self::Autumn => Some((278.0, 28.0)),
            Self::Winter => Some((10.0, 34.0)),
            Self::Christmas => Some((340.0, 18.0)),
            Self::Easter => Some((92.0, 14.0)),
            Self::Halloween => Some((294.0, 11.0)),
            Self::Valentine => Some((40.0, 10.0)),
        }
    }

    /// The season's strength on a day of the year: 1 in the middle, and 0 far away.
    pub fn nearness(self, day_of_year: f32) -> f32 {
        let Some((middle, spread)) = self.peak() else { return 0.0 };
        let year = YEAR_DAYS as f32;
        let apart = (day_of_year - middle).rem_euclid(year);
        let apart = apart.min(year - apart) / spread;
        (-0.5 * apart * apart).exp()
    }

    /// The season's part in the utility of a product, in logits.
    pub fn pull(self, day_of_year: f32) -> f32 {
        if self == Self::AllYear { 0.0 } else { -3.0 + 4.6 * self.nearness(day_of_year) }
    }
}

/// The day of the year, from 0 to 365.25, of a day counted from the Unix epoch.
pub fn day_of_year(epoch_day: i64) -> f32 {
    (epoch_day as f64).rem_euclid(YEAR_DAYS) as f32
}

/// How busy the shop is relative to a usual day: most before Christmas, least in late January.
pub fn bustle(day_of_year: f32) -> f32 {
    0.9 + 0.1 * (TAU * (day_of_year - 150.0) / YEAR_DAYS as f32).cos()
        + 0.9 * Season::Christmas.nearness(day_of_year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_january_starts_a_year() {
        // 2024-01-01 is day 19 723 of the epoch.
        let day = day_of_year(19_723);
        assert!(!(1.0..=364.0).contains(&day), "{day}");
        assert!((day_of_year(19_723 + 182) - 182.0).abs() < 1.0);
    }

    #[test]
    fn a_season_wraps_around_the_year() {
        assert!(Season::Winter.nearness(360.0) > 0.7);
        assert!(Season::Winter.nearness(180.0) < 0.01);
        assert!(Season::Summer.pull(180.0) > 1.0 && Season::Summer.pull(0.0) < -2.0);
        assert!(bustle(335.0) > 1.5 * bustle(25.0));
    }
}
