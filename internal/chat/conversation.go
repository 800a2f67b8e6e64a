package chat

import "github.com/troupe-engine/troupe/schemas"

// Message is one turn of a conversation as the OpenAI API has it.
type Message struct {
	Role    string `json:"role"` // "system", "user" or "assistant"
	Content string `json:"content"`
}

const (
	roleSystem    = "system"
	roleUser      = "user"
	roleAssistant = "assistant"
)

const (
	bytesPerTokenGuess = 3.0 // until an answer has told the truth
	messageTokens      = 8   // what a chat template adds to each message, about
	answerTokensMin    = 256 // of the context, or a quarter of it, stay free for the answer
)

// Conversation is what was said. Turns that no longer fit the context stay in it, but are not sent.
type Conversation struct {
	System   string
	Messages []Message // user and assistant
	Params   schemas.GenerationParams

	contextMax    int // tokens; 0 if unknown
	from          int // of Messages: the first that is sent
	bytesPerToken float64
}

// reset forgets what was said, but not the system's message.
func (c *Conversation) reset() { c.Messages, c.from = nil, 0 }

// toSend is the conversation from a message on.
func (c *Conversation) toSend(from int) []Message {
	var send []Message
	if c.System != "" {
		send = append(send, Message{roleSystem, c.System})
	}
	return append(send, c.Messages[from:]...)
}

// fit returns from where to send so that the answer has room, as far as is known before the engine has counted.
// The last message is always sent.
func (c *Conversation) fit() int {
	if c.contextMax == 0 {
		return c.from
	}
	reserve, from := c.reserve(), c.from
	for next := c.dropTurn(from); next > from && c.estimate(c.toSend(from))+reserve > c.contextMax; next = c.dropTurn(from) {
		from = next
	}
	return from
}

// reserve is how much of the context stays free for the answer.
func (c *Conversation) reserve() int {
	reserve := min(answerTokensMin, c.contextMax/4)
	if c.Params.MaxTokens != nil {
		reserve = int(min(*c.Params.MaxTokens, int64(reserve)))
	}
	return reserve
}

// askForLess lowers max_tokens after a refusal, down to the reserve: what was said is worth more than the right to
// a long answer. It reports false if that is reached.
func (c *Conversation) askForLess(p *schemas.GenerationParams) bool {
	if p.MaxTokens == nil || *p.MaxTokens <= max(int64(c.reserve()), 1) {
		return false
	}
	less := max(*p.MaxTokens/2, int64(c.reserve()), 1)
	p.MaxTokens = &less
	return true
}

// dropTurn returns where the turn after the one at from begins: at a user's message. It returns from when no
// other message would be left.
func (c *Conversation) dropTurn(from int) int {
	for i := from + 1; i < len(c.Messages); i++ {
		if c.Messages[i].Role == roleUser {
			return i
		}
	}
	return from
}

func (c *Conversation) estimate(messages []Message) int {
	ratio := c.bytesPerToken
	if ratio == 0 {
		ratio = bytesPerTokenGuess
	}
	return len(messages)*messageTokens + int(float64(contentBytes(messages))/ratio)
}

// learn corrects the estimate by what the engine has counted for messages.
func (c *Conversation) learn(messages []Message, promptTokens int64) {
	if text := promptTokens - int64(len(messages)*messageTokens); text > 0 {
		c.bytesPerToken = max(float64(contentBytes(messages))/float64(text), 0.25)
	}
}

func contentBytes(messages []Message) int {
	n := 0
	for _, m := range messages {
		n += len(m.Content)
	}
	return n
}
