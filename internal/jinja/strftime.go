package jinja

import (
	"fmt"
	"strings"
	"time"
)

// strftimeBytesMax bounds what one byte of a format can expand to.
const strftimeBytesMax = 32

// strftimeLayouts maps C's conversion specifications, in the C locale, to Go layouts.
var strftimeLayouts = map[byte]string{
	'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04", 'S': "05",
	'p': "PM", 'B': "January", 'b': "Jan", 'h': "Jan", 'A': "Monday", 'a': "Mon", 'j': "002",
	'z': "-0700", 'Z': "MST",
	'F': "2006-01-02", 'T': "15:04:05", 'X': "15:04:05", 'R': "15:04", 'r': "03:04:05 PM",
	'D': "01/02/06", 'x': "01/02/06", 'c': "Mon Jan _2 15:04:05 2006",
}

// strftime formats t as C's strftime does, with GNU's '-' flag for no padding. An
// unknown specification is kept as it is.
func strftime(t time.Time, format string) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		if format[i] == '-' && i+1 < len(format) {
			i++
			padded := conversion(t, format[i])
			if bare := strings.TrimLeft(padded, "0 "); bare != "" || padded == "" {
				b.WriteString(bare)
			} else {
				b.WriteByte('0')
			}
			continue
		}
		b.WriteString(conversion(t, format[i]))
	}
	return b.String()
}

func conversion(t time.Time, spec byte) string {
	switch spec {
	case '%':
		return "%"
	case 'n':
		return "\n"
	case 't':
		return "\t"
	case 'f':
		return fmt.Sprintf("%06d", t.Nanosecond()/1000)
	case 's':
		return fmt.Sprint(t.Unix())
	case 'C':
		return fmt.Sprintf("%02d", t.Year()/100)
	case 'u':
		return fmt.Sprint((int(t.Weekday())+6)%7 + 1)
	case 'w':
		return fmt.Sprint(int(t.Weekday()))
	case 'U':
		return fmt.Sprintf("%02d", (t.YearDay()+6-int(t.Weekday()))/7)
	case 'W':
		return fmt.Sprintf("%02d", (t.YearDay()+6-(int(t.Weekday())+6)%7)/7)
	case 'V':
		_, week := t.ISOWeek()
		return fmt.Sprintf("%02d", week)
	case 'G':
		year, _ := t.ISOWeek()
		return fmt.Sprint(year)
	}
	if layout, ok := strftimeLayouts[spec]; ok {
		return t.Format(layout)
	}
	return "%" + string(rune(spec))
}
