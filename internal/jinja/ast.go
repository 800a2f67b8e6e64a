package jinja

// An expr is a node that has a value, a stmt one that writes output or binds names.
// Each embeds pos, its place in the source.
type (
	expr interface{ at() pos }
	stmt interface{ at() pos }
)

type (
	constExpr struct {
		pos
		val any
	}
	nameExpr struct {
		pos
		name string
	}
	listExpr struct { // also tuples
		pos
		items   []expr
		isTuple bool
	}
	dictExpr struct {
		pos
		keys, vals []expr
	}
	unaryExpr struct { // op: - +
		pos
		op string
		x  expr
	}
	binaryExpr struct { // op: + - * / // % **
		pos
		op   string
		l, r expr
	}
	logicExpr struct { // l and r, l or r
		pos
		isAnd bool
		l, r  expr
	}
	notExpr struct {
		pos
		x expr
	}
	concatExpr struct { // a ~ b ~ c
		pos
		parts []expr
	}
	compareExpr struct { // a < b <= c, each operand evaluated once
		pos
		first expr
		rest  []comparison
	}
	comparison struct {
		op string // == != < <= > >= in, "not in"
		x  expr
	}
	condExpr struct { // then if cond else other; other may be nil
		pos
		cond, then, other expr
	}
	attrExpr struct { // x.name
		pos
		x    expr
		name string
	}
	indexExpr struct { // x[index]
		pos
		x, index expr
	}
	sliceExpr struct { // x[start:stop:step]; absent parts are nil
		pos
		x                 expr
		start, stop, step expr
	}
	callExpr struct {
		pos
		fn   expr
		args argList
	}
	filterExpr struct { // x | name(args); x is nil in a filter or set block
		pos
		x    expr
		name string
		fn   filterFunc // nil if unknown
		args argList
	}
	testExpr struct { // x is [not] name(args)
		pos
		x      expr
		name   string
		fn     testFunc // nil if unknown
		args   argList
		negate bool
	}
)

// argList is the source form of call arguments; star and starStar may be nil.
type argList struct {
	positional     []expr
	keywords       []keyword
	star, starStar expr
}

type keyword struct {
	name string
	x    expr
}

type (
	textStmt struct {
		pos
		text string
	}
	outputStmt struct {
		pos
		x expr
	}
	ifStmt struct {
		pos
		branches []branch
		other    []stmt
	}
	branch struct {
		cond expr
		body []stmt
	}
	forStmt struct {
		pos
		target   target
		iter     expr
		filter   expr // may be nil
		body     []stmt
		other    []stmt
		usesLoop bool // the body or filter mentions loop
	}
	setStmt struct {
		pos
		target target
		x      expr
	}
	setBlockStmt struct {
		pos
		target  target
		filters []*filterExpr
		body    []stmt
	}
	filterStmt struct {
		pos
		filters []*filterExpr
		body    []stmt
	}
	withStmt struct {
		pos
		targets []target
		values  []expr
		body    []stmt
	}
	macroStmt struct {
		pos
		def *macroDef
	}
	callStmt struct { // {% call(params) call %}body{% endcall %}
		pos
		caller *macroDef
		call   *callExpr
	}
	scopeStmt struct { // {% generation %}body{% endgeneration %}
		pos
		body []stmt
	}
	breakStmt    struct{ pos }
	continueStmt struct{ pos }
)

// macroDef is a macro or the body of a call block. The uses fields tell which
// implicit variables the body mentions, and so which extra arguments it takes.
type macroDef struct {
	name                              string
	params                            []param
	body                              []stmt
	usesCaller, usesArgs, usesKeyword bool
}

type param struct {
	name string
	def  expr // default; may be nil
}

// target is what can be assigned to: a name, an attribute of a namespace, or a
// list of targets that unpacks a sequence.
type target struct {
	pos
	name  string
	attr  string // name.attr if not empty
	items []target
}
