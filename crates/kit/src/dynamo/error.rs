//! What can go wrong with the store, in words that a capability can act on.
//!
//! Every operation's error of the SDK becomes a [`StoreError`] with `?`. Neither `Display` nor
//! `Debug` shows items, so an error can be logged as it is.

use std::fmt;

use aws_sdk_dynamodb::Error;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::CancellationReason;

use super::Item;

/// An operation on the store did not do what it was asked for.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The condition of a single write does not hold.
    ///
    /// After an attempt whose answer was lost, the SDK asks again, and then the condition may fail
    /// *because that first attempt was carried out*. A writer for whom this makes a difference asks
    /// for the item (`return_values_on_condition_check_failure(AllOld)`) and compares it with what
    /// it meant to write. Transactions do not have this problem: the SDK sends the same
    /// idempotency token with every attempt.
    #[error("the condition of the write does not hold")]
    ConditionFailed {
        /// The item as it is, if the request asked for it and there is one.
        item: Option<Item>,
    },
    /// A transaction was refused as a whole, and trying again would not help.
    #[error("the transaction was refused: {}", list(.reasons))]
    TransactionCancelled {
        /// The items that refused, in the order of the request. Items that did not object are not
        /// listed.
        reasons: Vec<CancelReason>,
    },
    /// Another transaction holds one of the items. Nothing was done.
    #[error("another transaction is working on the same item")]
    TransactionConflict,
    /// The table or the account takes no more requests for the moment.
    #[error("the store is being asked too much")]
    Throttled,
    /// No answer, or one that says that the store is ill. A write may or may not have been done.
    #[error("the store did not answer: {detail}")]
    Unavailable {
        /// For the log.
        detail: String,
    },
    /// An item above 400 KB, or a request above its limit.
    #[error("the item is too large for the store")]
    TooLarge,
    /// There is no such table or index. A matter of deployment, not of the request.
    #[error("the table {} is missing", .table.as_deref().unwrap_or("(not named)"))]
    TableMissing {
        /// The table's physical name, where the store tells it.
        table: Option<String>,
    },
    /// The credentials are missing, wrong, expired, or do not allow this.
    #[error("the store refused the credentials: {detail}")]
    AccessDenied {
        /// For the log.
        detail: String,
    },
    /// An item does not have the shape that the code expects.
    #[error("an item has an unexpected shape: {detail}")]
    Malformed {
        /// What serde says about it.
        detail: String,
    },
    /// Anything else: in the main, a request that DynamoDB finds invalid.
    #[error("the store refused the request: {detail}")]
    Other {
        /// For the log.
        detail: String,
    },
}

/// Why one item of a transaction refused.
#[derive(Clone, PartialEq)]
pub struct CancelReason {
    /// The item's place in the request, from 0.
    pub index: usize,
    /// What kind of refusal.
    pub code: CancelCode,
    /// The item as it is, if the request asked for it.
    pub item: Option<Item>,
}

/// The kinds of refusal in a cancelled transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CancelCode {
    /// `ConditionalCheckFailed`
    ConditionFailed,
    /// `TransactionConflict`
    Conflict,
    /// `ThrottlingError` or `ProvisionedThroughputExceeded`
    Throttled,
    /// `ItemCollectionSizeLimitExceeded`
    TooLarge,
    /// `ValidationError` and whatever may be added; in DynamoDB's spelling.
    Other(String),
}

impl StoreError {
    /// Whether the same request may succeed after a pause. Only for requests that are safe to
    /// repeat: after [`Unavailable`](Self::Unavailable) the first may have been carried out.
    pub const fn retryable(&self) -> bool {
        match self {
            Self::TransactionConflict | Self::Throttled | Self::Unavailable { .. } => true,
            Self::ConditionFailed { .. }
            | Self::TransactionCancelled { .. }
            | Self::TooLarge
            | Self::TableMissing { .. }
            | Self::AccessDenied { .. }
            | Self::Malformed { .. }
            | Self::Other { .. } => false,
        }
    }

    /// Whether a condition did not hold: the write's own, or that of any item of a transaction.
    pub fn is_condition_failed(&self) -> bool {
        match self {
            Self::ConditionFailed { .. } => true,
            Self::TransactionCancelled { reasons } => reasons.iter().any(|r| r.code == CancelCode::ConditionFailed),
            _ => false,
        }
    }

    /// Whether the condition of a transaction's item `index` (from 0) did not hold.
    pub fn is_condition_failed_at(&self, index: usize) -> bool {
        self.reason_at(index).is_some_and(|r| r.code == CancelCode::ConditionFailed)
    }

    /// What a transaction's item `index` (from 0) had against it.
    pub fn reason_at(&self, index: usize) -> Option<&CancelReason> {
        match self {
            Self::TransactionCancelled { reasons } => reasons.iter().find(|r| r.index == index),
            _ => None,
        }
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreError({self})")
    }
}

impl fmt::Debug for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {}: {:?}", self.index, self.code)
    }
}

fn list(reasons: &[CancelReason]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl<E> From<SdkError<E, HttpResponse>> for StoreError
where
    E: std::error::Error + ProvideErrorMetadata + Into<Error> + Send + Sync + 'static,
{
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        match error {
            SdkError::ServiceError(context) => {
                let status = context.raw().status().as_u16();
                from_answer(context.into_err(), status)
            }
            // Never sent: the request itself is wrong.
            SdkError::ConstructionFailure(_) => Self::Other { detail: causes(&error) },
            SdkError::DispatchFailure(ref failure) if failure.is_user() => Self::Other { detail: causes(&error) },
            _ => Self::Unavailable { detail: causes(&error) },
        }
    }
}

impl From<serde_dynamo::Error> for StoreError {
    fn from(error: serde_dynamo::Error) -> Self {
        Self::Malformed { detail: error.to_string() }
    }
}

impl From<BuildError> for StoreError {
    /// A request that lacks a part is refused before it is sent.
    fn from(error: BuildError) -> Self {
        Self::Other { detail: error.to_string() }
    }
}

/// Whether a write was done: not where its condition does not hold, or that of any item of a
/// transaction.
pub fn was_written<T, E: Into<StoreError>>(written: Result<T, E>) -> Result<bool, StoreError> {
    match written.map_err(Into::into) {
        Ok(_) => Ok(true),
        Err(error) if error.is_condition_failed() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The error and what is behind it. (The SDK's own formatter adds the raw answer, items included.)
fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |e| e.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// An error that DynamoDB itself answered with.
fn from_answer<E: ProvideErrorMetadata + Into<Error>>(error: E, status: u16) -> StoreError {
    let code = error.code().unwrap_or_default().to_owned();
    let message = error.message().unwrap_or_default().to_owned();
    match error.into() {
        Error::ConditionalCheckFailedException(e) => StoreError::ConditionFailed { item: e.item },
        Error::TransactionCanceledException(e) => cancelled(e.cancellation_reasons.unwrap_or_default(), message),
        Error::TransactionConflictException(_)
        | Error::TransactionInProgressException(_)
        | Error::ReplicatedWriteConflictException(_) => StoreError::TransactionConflict,
        Error::ProvisionedThroughputExceededException(_)
        | Error::RequestLimitExceeded(_)
        | Error::LimitExceededException(_)
        | Error::ThrottlingException(_) => StoreError::Throttled,
        Error::InternalServerError(_) => StoreError::Unavailable { detail: message },
        Error::ItemCollectionSizeLimitExceededException(_) => StoreError::TooLarge,
        Error::ResourceNotFoundException(_) | Error::TableNotFoundException(_) | Error::IndexNotFoundException(_) => {
            StoreError::TableMissing { table: named_table(&message) }
        }
        _ => from_code(&code, &message, status),
    }
}

/// Errors that any AWS service can answer with; the SDK does not know them by type.
fn from_code(code: &str, message: &str, status: u16) -> StoreError {
    match code {
        "AccessDeniedException"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "IncompleteSignatureException"
        | "InvalidClientTokenId"
        | "ExpiredTokenException"
        | "MissingAuthenticationTokenException" => StoreError::AccessDenied { detail: format!("{code}: {message}") },
        "ValidationException" if message.contains("size has exceeded") => StoreError::TooLarge,
        "RequestEntityTooLarge" => StoreError::TooLarge,
        "ThrottlingException" | "Throttling" => StoreError::Throttled,
        _ if status >= 500 => StoreError::Unavailable { detail: format!("{status} {code}: {message}") },
        _ => StoreError::Other { detail: format!("{code}: {message}") },
    }
}

/// A transaction that only met other transactions, or a limit, may be tried again; one that met
/// a condition may not, whatever else it met.
fn cancelled(answered: Vec<CancellationReason>, message: String) -> StoreError {
    let mut reasons = Vec::new();
    for (index, reason) in answered.into_iter().enumerate() {
        let code = match reason.code.as_deref() {
            None | Some("None") => continue,
            Some("ConditionalCheckFailed") => CancelCode::ConditionFailed,
            Some("TransactionConflict") => CancelCode::Conflict,
            Some("ThrottlingError" | "ProvisionedThroughputExceeded" | "RequestLimitExceeded") => CancelCode::Throttled,
            Some("ItemCollectionSizeLimitExceeded") => CancelCode::TooLarge,
            Some(other) => CancelCode::Other(other.to_owned()),
        };
        reasons.push(CancelReason { index, code, item: reason.item });
    }
    if reasons.is_empty() {
        return StoreError::Other { detail: message };
    }
    let passing = |r: &CancelReason| matches!(r.code, CancelCode::Conflict | CancelCode::Throttled);
    if !reasons.iter().all(passing) {
        StoreError::TransactionCancelled { reasons }
    } else if reasons.iter().any(|r| r.code == CancelCode::Conflict) {
        StoreError::TransactionConflict
    } else {
        StoreError::Throttled
    }
}

/// The table's name in "Requested resource not found: Table: muster-batches not found".
fn named_table(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("Table: ")?;
    let name = rest.split_whitespace().next()?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::operation::put_item::PutItemError;
    use aws_sdk_dynamodb::operation::query::QueryError;
    use aws_smithy_runtime_api::client::result::ConnectorError;
    use aws_smithy_types::error::ErrorMetadata;

    use super::*;
    use crate::dynamo::s;

    fn reason(code: &str) -> CancellationReason {
        CancellationReason::builder().code(code).build()
    }

    fn answered(code: &str, message: &str, status: u16) -> StoreError {
        let meta = ErrorMetadata::builder().code(code).message(message).build();
        from_answer(PutItemError::generic(meta), status)
    }

    #[test]
    fn a_cancelled_transaction_tells_which_items_refused() {
        let error = cancelled(vec![reason("None"), reason("ConditionalCheckFailed"), reason("None")], String::new());
        assert!(error.is_condition_failed() && error.is_condition_failed_at(1));
        assert!(!error.is_condition_failed_at(0) && !error.retryable());
    }

    #[test]
    fn a_transaction_that_only_met_another_one_may_be_tried_again() {
        let error = cancelled(vec![reason("None"), reason("TransactionConflict")], String::new());
        assert!(matches!(error, StoreError::TransactionConflict) && error.retryable());
        let error = cancelled(vec![reason("ThrottlingError")], String::new());
        assert!(matches!(error, StoreError::Throttled) && error.retryable());
    }

    #[test]
    fn a_failed_condition_outweighs_a_conflict() {
        let error = cancelled(vec![reason("TransactionConflict"), reason("ConditionalCheckFailed")], String::new());
        assert!(error.is_condition_failed_at(1) && !error.retryable());
    }

    #[test]
    fn errors_without_a_type_are_told_by_their_code() {
        let too_large = answered("ValidationException", "Item size has exceeded the maximum allowed size", 400);
        assert!(matches!(too_large, StoreError::TooLarge), "{too_large}");
        let denied = answered("AccessDeniedException", "not authorized to perform dynamodb:PutItem", 400);
        assert!(matches!(denied, StoreError::AccessDenied { .. }), "{denied}");
        let ill = answered("ServiceUnavailable", "", 503);
        assert!(matches!(ill, StoreError::Unavailable { .. }) && ill.retryable(), "{ill}");
        let invalid = answered("ValidationException", "Invalid UpdateExpression", 400);
        assert!(matches!(invalid, StoreError::Other { .. }) && !invalid.retryable(), "{invalid}");
    }

    #[test]
    fn no_connection_means_unavailable() {
        let refused = ConnectorError::io(std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into());
        let error = StoreError::from(SdkError::<QueryError, HttpResponse>::dispatch_failure(refused));
        assert!(matches!(error, StoreError::Unavailable { .. }) && error.retryable(), "{error}");
    }

    #[test]
    fn an_error_in_the_log_shows_no_item() {
        let item = Item::from([("secret".to_owned(), s("mk_1_hunter2"))]);
        let single = StoreError::ConditionFailed { item: Some(item.clone()) };
        let reason = CancelReason { index: 0, code: CancelCode::ConditionFailed, item: Some(item) };
        let many = StoreError::TransactionCancelled { reasons: vec![reason] };
        for error in [single, many] {
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
