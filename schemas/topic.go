package schemas

// Topic ties a message to the subjects on which actors announce it. Nobody answers, nobody may listen, and
// an announcement can be lost or repeated: a message carries what lets its receivers cope.
type Topic[T any] struct {
	Service string // of the actors that announce: "scheduler"
	Verb    string // what is announced: "load"
	Doc     string // one sentence
}

// TopicInfo is a topic without its static type, for listings.
type TopicInfo struct{ Service, Verb, Doc string }

// Subject is where one instance announces; see Topic.Subject.
func (t TopicInfo) Subject(from Instance) string { return Topic[struct{}](t).Subject(from) }

var topics []TopicInfo

// Topics lists every topic.
func Topics() []TopicInfo { return topics }

func announce[T any](service, verb, doc string) Topic[T] {
	topics = append(topics, TopicInfo{service, verb, doc})
	return Topic[T]{service, verb, doc}
}

// Subject is where one instance announces, or, for the instance "", the pattern that matches all.
func (t Topic[T]) Subject(from Instance) string {
	if from == "" {
		from = "*"
	}
	return SubjectPrefix + t.Service + "." + t.Verb + "." + string(from)
}
