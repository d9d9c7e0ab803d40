//! Sentences about loss that several places use, so that they say the same.

use crate::results::stats::rule_of_three;
use crate::results::summary::{CellSummary, Judged};
use crate::results::text;
use highwater_checker::Acks;

/// `lost 0 of 3.1 M acknowledged, 60 power cuts; at most 5 % lose anything`: a zero never stands
/// without what it rests on.
pub(crate) fn lost(cell: &CellSummary<'_>, judged: &Judged) -> String {
    let of = match cell.configuration.setting.acks {
        Acks::Zero => format!("{} sent, none acknowledged", text::rounded(judged.attempts)),
        Acks::One | Acks::All => {
            format!("{} acknowledged{}", text::rounded(judged.acknowledged), expired(judged.expired))
        }
    };
    let trials = judged.trials as u64;
    let accidents = cell
        .ordeal()
        .map_or_else(|| text::counted(trials, "trial", "trials"), |ordeal| ordeal.counted(trials));
    let lost = text::exact(judged.lost);
    if judged.lost > 0 {
        let rate =
            cell.offered().map_or_else(String::new, |rate| format!(" at {} MB/s", text::megabytes(rate)));
        return format!("lost {lost} of {of}{rate}, in {} of {accidents}", judged.trials_with_loss());
    }
    format!("lost {lost} of {of}, {accidents}; {}", no_loss_bound(judged))
}

/// What stands beside a number of acknowledged records, if others are not in it.
pub(crate) fn expired(count: u64) -> String {
    match count {
        0 => String::new(),
        count => {
            format!(" (and {} more, deleted by retention before they could be read)", text::rounded(count))
        }
    }
}

/// What a cell without loss proves.
pub(crate) fn no_loss_bound(judged: &Judged) -> String {
    match (judged.telling_trials, rule_of_three(judged.telling_trials)) {
        (0, _) => "nothing could be lost, so nothing is proven".to_owned(),
        (_, Some(bound)) => format!("at most {} lose anything (95\u{a0}%)", text::percent_at_most(bound)),
        (_, None) => "too few trials to bound it".to_owned(),
    }
}
