//! The clock that `strftime_now` reads and Python's `strftime` in the C locale.

use std::time::{SystemTime, UNIX_EPOCH};

/// A date and time of day, without a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateTime {
    /// Year of the common era.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
}

const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl DateTime {
    /// The current time in UTC. The standard library knows no time zones; a caller that does passes its own time.
    pub fn now_utc() -> Self {
        let seconds =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (year, month, day) = civil_from_days((seconds / 86_400) as i64);
        let time = (seconds % 86_400) as u32;
        Self { year, month, day, hour: time / 3600, minute: time / 60 % 60, second: time % 60 }
    }

    /// Days since 1970-01-01.
    fn days(&self) -> i64 {
        days_from_civil(self.year, self.month, self.day)
    }

    /// 0 for Sunday to 6 for Saturday.
    fn weekday(&self) -> usize {
        (self.days() + 4).rem_euclid(7) as usize
    }

    /// Day of the year from 1.
    fn day_of_year(&self) -> i64 {
        self.days() - days_from_civil(self.year, 1, 1) + 1
    }

    /// `strftime`: unknown directives are kept as they are.
    pub(super) fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                None => out.push('%'),
                Some('-') => match chars.next() {
                    None => out.push_str("%-"),
                    Some(directive) => {
                        let padded = self.directive(directive);
                        let trimmed = padded.trim_start_matches(['0', ' ']);
                        out.push_str(if trimmed.is_empty() { "0" } else { trimmed });
                    }
                },
                Some(directive) => out.push_str(&self.directive(directive)),
            }
        }
        out
    }

    fn directive(&self, directive: char) -> String {
        let month = MONTHS[(self.month.clamp(1, 12) - 1) as usize];
        let weekday = DAYS[self.weekday()];
        let hour12 = if self.hour.is_multiple_of(12) { 12 } else { self.hour % 12 };
        let meridiem = if self.hour < 12 { "AM" } else { "PM" };
        let week = |first: i64| {
            (self.day_of_year() - 1 + 7 - (self.weekday() as i64 - first).rem_euclid(7)) / 7
        };
        match directive {
            'a' => weekday[..3].into(),
            'A' => weekday.into(),
            'w' => self.weekday().to_string(),
            'u' => (if self.weekday() == 0 { 7 } else { self.weekday() }).to_string(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'b' | 'h' => month[..3].into(),
            'B' => month.into(),
            'm' => format!("{:02}", self.month),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'Y' => self.year.to_string(),
            'C' => format!("{:02}", self.year.div_euclid(100)),
            'H' => format!("{:02}", self.hour),
            'k' => format!("{:2}", self.hour),
            'I' => format!("{hour12:02}"),
            'l' => format!("{hour12:2}"),
            'p' => meridiem.into(),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'f' => "000000".into(),
            'z' | 'Z' => String::new(),
            'j' => format!("{:03}", self.day_of_year()),
            'U' => format!("{:02}", week(0)),
            'W' => format!("{:02}", week(1)),
            's' => (self.days() * 86_400
                + i64::from(self.hour * 3600 + self.minute * 60 + self.second))
            .to_string(),
            'D' | 'x' => self.format("%m/%d/%y"),
            'F' => self.format("%Y-%m-%d"),
            'T' | 'X' => self.format("%H:%M:%S"),
            'R' => self.format("%H:%M"),
            'r' => self.format("%I:%M:%S %p"),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            'n' => "\n".into(),
            't' => "\t".into(),
            '%' => "%".into(),
            other => format!("%{other}"),
        }
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar, counting years from March so that the leap day
/// comes last.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = i64::from((month + 9) % 12);
    let day_of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

/// The date that lies `days` after 1970-01-01.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    // An estimate that is never too late by more than a year, then counted on.
    let mut year = 1970 + days.div_euclid(366);
    while days_from_civil(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 12;
    while days_from_civil(year, month, 1) > days {
        month -= 1;
    }
    (year, month, (days - days_from_civil(year, month, 1) + 1) as u32)
}
