package main

import (
	"fmt"
	"log"
	"os"
	"regexp"
	"strconv"
)

var standIn = regexp.MustCompile(`(?m)^\tVPDPWSSD\s+Z(\d+), Z(\d+), Z(\d+)$`)

// pairEncodings replaces VPDPWSSD on whole registers, in the file that was generated, by the bytes of VDPBF16PS (Intel
// 64 and IA-32 Architectures Software Developer's Manual, volume 2): EVEX.512.F3.0F38.W0 52 /r, where VPDPWSSD, with
// the same operands and opcode, has the prefix 66. Go's assembler knows only the latter.
func pairEncodings(path string) {
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	text = standIn.ReplaceAllFunc(text, func(line []byte) []byte {
		var z [3]uint8 // the operands in Go's order: second source, first source, destination
		for i, digits := range standIn.FindSubmatch(line)[1:] {
			n, err := strconv.ParseUint(string(digits), 10, 5)
			if err != nil {
				log.Fatal(err)
			}
			z[i] = uint8(n)
		}
		source, first, to := z[0], z[1], z[2]
		inverted := func(n uint8, bit uint) uint8 { return ^n >> bit & 1 }
		code := [6]uint8{0x62,
			inverted(to, 3)<<7 | inverted(source, 4)<<6 | inverted(source, 3)<<5 | inverted(to, 4)<<4 | 0b010,
			^first&15<<3 | 0b110,
			0b10<<5 | inverted(first, 4)<<3,
			0x52, 0b11<<6 | to&7<<3 | source&7}
		out := fmt.Sprintf("\t// VDPBF16PS Z%d, Z%d, Z%d\n\t", source, first, to)
		for i, b := range code {
			if i > 0 {
				out += "; "
			}
			out += fmt.Sprintf("BYTE $0x%02x", b)
		}
		return []byte(out)
	})
	if err := os.WriteFile(path, text, 0o644); err != nil {
		log.Fatal(err)
	}
}
