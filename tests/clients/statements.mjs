// PostgreSQL's own parser (libpg_query, the server's source as WebAssembly) beside our reader of statements. Standard input has
// a JSON line for each text: {text, statements: [{kind, effect, tables, functions}]}, without statements where it is undecidable.
// Prints {agreed, undecided, wider, differences}: `wider` are texts that we read and that are no SQL, which the server refuses.
import { createInterface } from 'node:readline'
import { loadModule, parseSync } from 'libpg-query'

const RANK = ['connect', 'session', 'read', 'write', 'schema', 'danger']
const CHANGES = { InsertStmt: 3, UpdateStmt: 3, DeleteStmt: 3, MergeStmt: 3, LockingClause: 3, intoClause: 4 }
// What may count as less than a write, and as which kind.
const HARMLESS = {
  ClosePortalStmt: 'close', ConstraintsSetStmt: 'set', CopyStmt: 'copy', DeallocateStmt: 'deallocate', DeclareCursorStmt: 'declare',
  DiscardStmt: 'discard', ExecuteStmt: 'execute', ExplainStmt: 'explain', FetchStmt: 'fetch', ListenStmt: 'listen',
  PrepareStmt: 'prepare', SelectStmt: 'select', TransactionStmt: 'transaction', UnlistenStmt: 'listen', VariableSetStmt: 'set',
  VariableShowStmt: 'show',
}

const bare = name => name.replace(/"((?:[^"]|"")*)"/g, (_, inner) => inner.replaceAll('""', '"'))

function* nodes(tree) {
  if (tree === null || typeof tree !== 'object') return
  if (Array.isArray(tree)) {
    for (const item of tree) yield* nodes(item)
    return
  }
  for (const [name, value] of Object.entries(tree)) {
    // The relations that FOR UPDATE OF names are aliases.
    if (name === 'lockedRels') continue
    yield [name, value]
    yield* nodes(value)
  }
}

function compare(parsed, told) {
  const rank = RANK.indexOf(told.effect)
  const tables = new Set(told.tables.map(bare))
  const functions = new Set(told.functions.map(bare))
  const all = [...nodes(parsed)]
  const queries = new Set(all.filter(([name]) => name === 'CommonTableExpr').map(([, value]) => value.ctename))
  const wrong = []
  for (const [name, value] of all) {
    if (value?.relname && !(queries.has(value.relname) && !value.schemaname)) {
      const relation = [value.catalogname, value.schemaname, value.relname].filter(Boolean).join('.')
      if (!tables.has(relation)) wrong.push(`${relation} is not named`)
    }
    // LIKE … ESCAPE and its kin are calls in pg_catalog that nobody wrote.
    if (name === 'FuncCall' && value.funcformat === 'COERCE_EXPLICIT_CALL') {
      const called = value.funcname.map(part => part.String.sval).join('.')
      if (!functions.has(called) && !/^pg_catalog\.(like|similar_to)_escape$/.test(called)) wrong.push(`${called} is not named`)
    }
    if (rank < (CHANGES[name] ?? 0) && told.kind !== 'explain') wrong.push(`${name} is only ${told.effect}`)
  }
  const [kind] = Object.keys(parsed.stmt)
  if (rank < 3 && HARMLESS[kind] !== told.kind) wrong.push(`${kind} is ${told.kind}, ${told.effect}`)
  return wrong
}

await loadModule()
const result = { agreed: 0, undecided: 0, wider: 0, differences: [] }
for await (const line of createInterface({ input: process.stdin })) {
  const { text, statements } = JSON.parse(line)
  let parsed
  try {
    parsed = parseSync(text).stmts ?? []
  } catch {
    if (statements && text.trim() !== '') result.wider += 1
    continue
  }
  if (!statements) {
    result.undecided += 1
    continue
  }
  const wrong = parsed.length === statements.length
    ? parsed.flatMap((statement, at) => compare(statement, statements[at]))
    : [`${parsed.length} statements, not ${statements.length}`]
  if (wrong.length === 0) result.agreed += 1
  else result.differences.push(`${text}: ${wrong.join(', ')}`)
}
console.log(JSON.stringify(result))
