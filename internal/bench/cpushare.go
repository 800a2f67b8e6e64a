package bench

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime/pprof"
)

// clientLabels mark the goroutines of the load generator, and those they start, in CPU profiles.
var clientLabels = pprof.Labels(clientLabelKey, clientLabelValue)

const clientLabelKey, clientLabelValue = "bench", "client"

// profileShare returns which part of a CPU profile's time carries clientLabels. Format:
// https://github.com/google/pprof/blob/main/proto/profile.proto
func profileShare(profile []byte) (float64, error) {
	z, err := gzip.NewReader(bytes.NewReader(profile))
	if err != nil {
		return 0, fmt.Errorf("profile: %w", err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		return 0, fmt.Errorf("profile: %w", err)
	}
	var names []string
	var samples [][]byte
	err = fields(raw, func(number int, _ uint64, body []byte) error {
		switch number {
		case 2:
			samples = append(samples, body)
		case 6:
			names = append(names, string(body))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	all, client := uint64(0), uint64(0)
	for _, s := range samples {
		count, labelled, err := readSample(s, names)
		if err != nil {
			return 0, err
		}
		if all += count; labelled {
			client += count
		}
	}
	if all == 0 {
		return 0, nil
	}
	return float64(client) / float64(all), nil
}

// readSample returns how often a sample was seen and whether it carries the label.
func readSample(body []byte, names []string) (count uint64, labelled bool, err error) {
	err = fields(body, func(number int, value uint64, body []byte) error {
		switch number {
		case 2: // values: how often, nanoseconds; packed or one by one
			if body != nil {
				value, _ = binary.Uvarint(body)
			}
			if count == 0 {
				count = value
			}
		case 3:
			var key, text uint64
			err := fields(body, func(number int, value uint64, _ []byte) error {
				switch number {
				case 1:
					key = value
				case 2:
					text = value
				}
				return nil
			})
			n := uint64(len(names))
			labelled = labelled || key < n && text < n && names[key] == clientLabelKey && names[text] == clientLabelValue
			return err
		}
		return nil
	})
	return count, labelled, err
}

// fields walks over a protobuf message: body is nil for numbers.
func fields(message []byte, field func(number int, value uint64, body []byte) error) error {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return fmt.Errorf("profile: malformed")
		}
		message = message[n:]
		value, n := binary.Uvarint(message)
		if n <= 0 {
			return fmt.Errorf("profile: malformed")
		}
		message = message[n:]
		var body []byte
		switch tag & 7 {
		case 0:
		case 2:
			if value > uint64(len(message)) {
				return fmt.Errorf("profile: malformed")
			}
			body, message = message[:value:value], message[value:]
			if body == nil {
				body = []byte{}
			}
		default:
			return fmt.Errorf("profile: field of wire type %d", tag&7)
		}
		if err := field(int(tag>>3), value, body); err != nil {
			return err
		}
	}
	return nil
}

// profiled runs f under a CPU profile and returns the profile; nil if another is being taken.
func profiled(f func()) []byte {
	var b bytes.Buffer
	if pprof.StartCPUProfile(&b) != nil {
		f()
		return nil
	}
	f()
	pprof.StopCPUProfile()
	return b.Bytes()
}

// asClient runs f with clientLabels.
func asClient(ctx context.Context, f func(context.Context)) { pprof.Do(ctx, clientLabels, f) }
