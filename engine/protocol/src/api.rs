//! The table of APIs: which are served, in which versions, and how each is laid out.
//!
//! Everything that depends on the set of APIs hangs on the one table at the end of [`served_apis!`]: the key, the body
//! of a request, the walker's layout, what ApiVersions tells. An API that is not in the table does not exist for a
//! client, and is not advertised before it is served.

use bytes::Bytes;
use kafka_protocol::messages;
use kafka_protocol::protocol::{Decodable, VersionRange};

use crate::schema::{Schema, requests};

macro_rules! served_apis {
    ($($api:ident = $key:literal, $min:literal..=$max:literal, advertised from $advertised:literal,
       codec to $codec:literal, $schema:ident, $request:ident;)*) => {
        /// An API that is served, by Kafka's name and key.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        #[expect(missing_docs, reason = "each variant is the Kafka API that it is named after")]
        pub enum ApiKey {
            $($api = $key,)*
        }

        impl ApiKey {
            /// Every API that is served, by key.
            pub const ALL: &'static [ApiKey] = &[$(ApiKey::$api),*];

            /// From the key on the wire.
            #[must_use]
            pub const fn from_key(key: i16) -> Option<Self> {
                match key {
                    $($key => Some(ApiKey::$api),)*
                    _ => None,
                }
            }

            /// Kafka's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(ApiKey::$api => stringify!($api),)*
                }
            }

            /// Versions that are decoded and answered.
            #[must_use]
            pub const fn served_versions(self) -> VersionRange {
                match self {
                    $(ApiKey::$api => VersionRange { min: $min, max: $max },)*
                }
            }

            /// Versions that ApiVersions tells. Wider than the served ones where clients need that.
            #[must_use]
            pub const fn advertised_versions(self) -> VersionRange {
                match self {
                    $(ApiKey::$api => VersionRange { min: $advertised, max: $max },)*
                }
            }

            /// The version that the codec crate knows the layout of `version` under: it lacks some of the newest, whose
            /// layout is an older one's.
            pub(crate) const fn codec_version(self, version: i16) -> i16 {
                let newest = match self {
                    $(ApiKey::$api => $codec,)*
                };
                if version > newest { newest } else { version }
            }

            pub(crate) fn schema(self) -> &'static Schema {
                match self {
                    $(ApiKey::$api => &requests::$schema,)*
                }
            }
        }

        /// The body of a request. Record bytes and strings are slices of the frame that it came in.
        ///
        /// Exhaustive on purpose: an API that is in the table must be handled.
        #[derive(Debug, Clone, PartialEq)]
        #[expect(missing_docs, reason = "each variant is the Kafka API that it is named after")]
        pub enum RequestBody {
            $($api(messages::$request),)*
        }

        impl RequestBody {
            /// Decodes what the walker has let through.
            pub(crate) fn decode(api: ApiKey, version: i16, bytes: &mut Bytes) -> Result<Self, String> {
                let version = api.codec_version(version);
                match api {
                    $(ApiKey::$api => {
                        messages::$request::decode(bytes, version).map(RequestBody::$api)
                    })*
                }
                .map_err(|error| error.to_string())
            }
        }

        #[cfg(test)]
        impl RequestBody {
            /// Encodes again, for tests.
            pub(crate) fn encode(&self, version: i16) -> Vec<u8> {
                use kafka_protocol::protocol::Encodable;
                let mut out = Vec::new();
                match self {
                    $(RequestBody::$api(body) => {
                        body.encode(&mut out, ApiKey::$api.codec_version(version)).expect("encodes");
                    })*
                }
                out
            }
        }
    };
}

// Produce is advertised from version 0 although Kafka serves 3 and above: librdkafka otherwise takes the broker for one
// that does not know compression, and turns it off without a word. ListOffsets 11 (KIP-1023) is laid out as 10,
// DescribeLogDirs 5 (KIP-1066) differs from 4 in the response only.
served_apis! {
    Produce = 0, 3..=13, advertised from 0, codec to 13, PRODUCE, ProduceRequest;
    Fetch = 1, 4..=18, advertised from 4, codec to 18, FETCH, FetchRequest;
    ListOffsets = 2, 1..=11, advertised from 1, codec to 10, LIST_OFFSETS, ListOffsetsRequest;
    Metadata = 3, 0..=13, advertised from 0, codec to 13, METADATA, MetadataRequest;
    ApiVersions = 18, 0..=4, advertised from 0, codec to 4, API_VERSIONS, ApiVersionsRequest;
    CreateTopics = 19, 2..=7, advertised from 2, codec to 7, CREATE_TOPICS, CreateTopicsRequest;
    DeleteTopics = 20, 1..=6, advertised from 1, codec to 6, DELETE_TOPICS, DeleteTopicsRequest;
    DeleteRecords = 21, 0..=2, advertised from 0, codec to 2, DELETE_RECORDS, DeleteRecordsRequest;
    InitProducerId = 22, 0..=5, advertised from 0, codec to 5, INIT_PRODUCER_ID, InitProducerIdRequest;
    OffsetForLeaderEpoch = 23, 2..=4, advertised from 2, codec to 4, OFFSET_FOR_LEADER_EPOCH,
        OffsetForLeaderEpochRequest;
    DescribeConfigs = 32, 1..=4, advertised from 1, codec to 4, DESCRIBE_CONFIGS, DescribeConfigsRequest;
    DescribeLogDirs = 35, 1..=5, advertised from 1, codec to 4, DESCRIBE_LOG_DIRS, DescribeLogDirsRequest;
    CreatePartitions = 37, 0..=3, advertised from 0, codec to 3, CREATE_PARTITIONS, CreatePartitionsRequest;
    IncrementalAlterConfigs = 44, 0..=1, advertised from 0, codec to 1, INCREMENTAL_ALTER_CONFIGS,
        IncrementalAlterConfigsRequest;
    DescribeCluster = 60, 0..=2, advertised from 0, codec to 2, DESCRIBE_CLUSTER, DescribeClusterRequest;
    DescribeTopicPartitions = 75, 0..=0, advertised from 0, codec to 0, DESCRIBE_TOPIC_PARTITIONS,
        DescribeTopicPartitionsRequest;
}

impl ApiKey {
    /// The key on the wire.
    #[must_use]
    pub const fn key(self) -> i16 {
        self as i16
    }

    /// Whether `version` is decoded and answered.
    #[must_use]
    pub const fn serves(self, version: i16) -> bool {
        let VersionRange { min, max } = self.served_versions();
        min <= version && version <= max
    }

    /// Whether `version` uses compact lengths and tagged fields.
    #[must_use]
    pub fn is_flexible(self, version: i16) -> bool {
        version >= self.schema().flexible_since
    }

    /// Version of the header before the response: 1 has tagged fields. ApiVersions always has 0, so that a client
    /// that knows nothing of the broker yet can read it.
    #[must_use]
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self != ApiKey::ApiVersions && self.is_flexible(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_agrees_with_the_codec_crate() {
        for &api in ApiKey::ALL {
            let theirs = messages::ApiKey::try_from(api.key()).expect("known to the codec crate");
            assert_eq!(format!("{theirs:?}"), api.name());
            assert_eq!(ApiKey::from_key(api.key()), Some(api));
            let VersionRange { min, max } = api.served_versions();
            for version in min..=api.codec_version(max) {
                let header = if api.is_flexible(version) { 2 } else { 1 };
                assert_eq!(theirs.request_header_version(version), header, "{} {version}", api.name());
                let header = api.response_header_version(version);
                assert_eq!(theirs.response_header_version(version), header, "{} {version}", api.name());
            }
        }
    }

    #[test]
    fn produce_is_advertised_from_version_zero() {
        assert_eq!(ApiKey::Produce.advertised_versions().min, 0);
        assert!(!ApiKey::Produce.serves(2));
    }
}
