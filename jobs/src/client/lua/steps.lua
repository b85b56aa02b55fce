-- The steps: one function for each verb, its arguments and its answer in the line above.

local verbs = {}

-- Why `known`, which a key stands for, does not answer a request for `want`.
local function keyed_otherwise(known, want)
  local job = known and load(known)
  if job then return given(job.want or '') and job.want ~= want and 'KEYED ' .. known end
  if known and redis.call('EXISTS', P .. 'batch:' .. known) == 1 then return 'BATCH ' .. known end
end

-- Whether a job in the queue of `target`, kept as is wished for, is what the job of that key gives. One for the best host
-- is on the one that was the best when it was asked for; one that was moved to the pool is still what it was.
local function gives(job, target, payload, pin, lease)
  local _, wish = pcall(cjson.decode, payload)
  local fine, own = pcall(cjson.decode, job.job)
  if not (fine and type(own) == 'table' and type(wish) == 'table') then return true end
  local is_best = wish.hosts == 'best' or type(wish.hosts) == 'table' and wish.hosts.pick == 'best'
  local was_moved = job.target == 'pool' and own.hosts ~= 'pool'
  if job.target ~= target and not is_best and not was_moved then return false end
  if pin == '1' and job.pin ~= '1' and own.pin ~= true then return false end
  return not given(lease) or tonumber(lease) <= (tonumber(job.lease_ttl) or 0)
end

-- id kind target want job priority deadline not_before requester key pin bandwidth lease window bandwidth_outside
-- max_queued notify placed parent
-- -> created, job; or FULL and how many wait; or KEYED or BATCH and the id of something else that the key stands for
function verbs.enqueue(id, kind, target, want, payload, priority, deadline, not_before, requester, key, pin, bandwidth,
  lease, window, outside, most, notify, placed, parent)
  deadline, not_before, requester, key = given(deadline), given(not_before), given(requester), given(key)
  -- The answer to the first try may have got lost, and the job may even be done by now.
  local mine = load(id)
  if mine then return { 1, reply(mine) } end
  local known = key and redis.call('GET', P .. 'key:' .. key)
  local other = keyed_otherwise(known, want)
  if other then return other end
  local keyed = known and load(known)
  -- What a batch asks for was compared as a whole.
  if keyed and not given(parent) and not gives(keyed, target, payload, pin, lease) then return 'KEYED ' .. known end
  if keyed then return { 0, reply(keyed) } end
  local wanted = redis.call('HGET', P .. 'wants', target .. ' ' .. want)
  local old = wanted and load(wanted)
  if old and is_whole(old) then
    local job = draft(old)
    job.priority = int(math.max(number(job, 'priority'), tonumber(priority)))
    if deadline and (not job.deadline or tonumber(deadline) < tonumber(job.deadline)) then
      job.deadline = deadline
    end
    remember_requester(job, requester)
    remember_key(job, key)
    job.placed = job.placed or given(placed)
    remember_notify(job, notify)
    if pin == '1' then job.pin = '1' end
    -- The more generous limit; none at all beats any, and what is not there was never limited.
    local limit = tonumber(job.bandwidth)
    if limit and not given(bandwidth) then
      job.bandwidth = 'none'
    elseif limit and tonumber(bandwidth) > limit then
      job.bandwidth = bandwidth
    end
    -- The longest lease, in seconds.
    if given(lease) and tonumber(lease) > (tonumber(job.lease_ttl) or 0) then job.lease_ttl = lease end
    local shut_out = job.state == 'waiting' and job.reason == 'outside_window'
    local widened = kind == 'download' and widen_window(job, given(window), given(outside))
    if widened and shut_out or job.state == 'waiting' and not job.reason then
      local due = not_before and tonumber(not_before) or NOW
      if job.due then job.due = int(math.min(tonumber(job.due), due)) end
      wake(job)
    end
    save(old, job)
    return { 0, reply(job, old) }
  end
  local backlog = redis.call('ZCARD', P .. 'jobs:' .. kind .. ':queued')
    + redis.call('ZCARD', P .. 'jobs:' .. kind .. ':waiting')
  if backlog >= tonumber(most) then return 'FULL ' .. int(backlog) end
  local due = not_before and tonumber(not_before) > NOW and not_before
  if wanted then redis.call('HDEL', P .. 'wants', target .. ' ' .. want) end
  -- What is not there has its first value: no attempts, no progress, nobody's name.
  local job = draft({})
  job.v, job.id, job.kind, job.target, job.want, job.job = '1', id, kind, target, want, payload
  job.priority, job.deadline = priority ~= '0' and priority, deadline
  job.bandwidth = given(bandwidth)
  job.lease_ttl = given(lease)
  job.placed, job.parent = given(placed), given(parent)
  job.state, job.due = due and 'waiting' or 'queued', due
  job.created_at, job.seq = int(NOW), int(redis.call('INCR', P .. 'seq') - 1)
  remember_requester(job, requester)
  remember_key(job, key)
  remember_notify(job, notify)
  save(nil, job)
  -- So that a host that never comes is seen to be missing.
  local host = string.match(target, '^host:(.*)$')
  if host then redis.call('ZADD', P .. 'known', 'NX', int(NOW), host) end
  return { 1, reply(job) }
end

-- How long a job of a drained host waits before somebody looks again, should nobody undrain it.
local DRAINED = 7 * 24 * 3600 * 1000000

-- So many jobs are woken in one step: of those whose time has come together, as at the opening of a window, the most
-- urgent goes first only if all of them are awake.
local WOKEN = 1000

-- Queues the jobs whose time has come.
local function wake_due(kind, queue, retention)
  local due = P .. 'due:' .. kind .. ':' .. queue
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', int(NOW), 'LIMIT', 0, WOKEN)) do
    local old = load(id)
    if old and is_whole(old) and old.state == 'waiting' then
      local job = draft(old)
      wake(job)
      save(old, job)
    else
      redis.call('ZREM', due, id)
      if old and not is_whole(old) then bury(id, old, kind, queue, retention) end
    end
  end
end

-- The job that goes first, and its score. What is no job of this kind is put aside, some at a time.
local function first(kind, queue, retention)
  local ready = P .. 'ready:' .. kind .. ':' .. queue
  for _ = 1, CHUNK do
    local head = redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')
    local member = head[1]
    if not member then return nil end
    local id = string.sub(member, 17)
    local old = load(id)
    local sound = old and is_whole(old) and old.kind == kind
    if sound and old.state == 'queued' then return old, tonumber(head[2]) end
    redis.call('ZREM', ready, member)
    if old and not sound then bury(id, old, kind, queue, retention) end
  end
end

-- The jobs of a drained host say that they wait for it, some at a time; until their deadline, at which they are found.
local function put_off(kind, host, retention)
  for _ = 1, CHUNK do
    local old = first(kind, 'host:' .. host, retention)
    if not old then return end
    local job = draft(old)
    wait_until(job, 'host_drained', 'the host takes no jobs; hint: larder hosts undrain ' .. host,
      math.min(NOW + DRAINED, tonumber(job.deadline) or math.huge))
    save(old, job)
  end
end

-- kind host nonce lease retention target... -> {1, job, missed} or {0, wait, missed}: what it may do, or how long
-- until it may do something; and the jobs that it found too late for their deadline
function verbs.claim(kind, host, nonce, lease, retention, ...)
  local targets, missed, keys = { ... }, {}, { P .. 'claims' }
  for _, queue in ipairs(targets) do
    keys[#keys + 1], keys[#keys + 2] = P .. 'ready:' .. kind .. ':' .. queue, P .. 'due:' .. kind .. ':' .. queue
  end
  -- A fleet at rest asks nothing more.
  if redis.call('EXISTS', unpack(keys)) == 0 then return { 0, '', missed } end
  -- The answer to the first try may have got lost, and this one gets the same job.
  local held = redis.call('HGET', P .. 'claims', nonce)
  local old = held and load(held)
  if old and old.nonce == nonce and RUNNING[old.state] then
    local job = draft(old)
    job.lease_until = int(NOW + lease)
    save(old, job)
    return { 1, reply(job, old), {} }
  end
  table.remove(keys, 1)
  if redis.call('EXISTS', unpack(keys)) == 0 then return { 0, '', missed } end
  if redis.call('HGET', P .. 'drained', host) then
    put_off(kind, host, retention)
    return { 0, '', missed }
  end
  for _ = 1, CHUNK do
    local old, least
    for _, queue in ipairs(targets) do
      wake_due(kind, queue, retention)
      local head, score = first(kind, queue, retention)
      if head and not (least and least <= score) then old, least = head, score end
    end
    if not old then break end
    local job = draft(old)
    local deadline = tonumber(job.deadline)
    if deadline and deadline <= NOW then
      miss_deadline(job, retention)
      save(old, job)
      missed[#missed + 1] = reply(job, old)
    else
      job.state, job.reason, job.due = job.kind == 'download' and 'planning' or 'running', false, false
      job.attempts = int(number(job, 'attempts') + 1)
      job.token = next_token(job)
      job.lease_until = int(NOW + lease)
      job.started_at = job.started_at or int(NOW)
      job.owner, job.nonce = host, nonce
      save(old, job)
      if job.target == 'pool' and redis.call('EXISTS', P .. 'ready:' .. kind .. ':pool') == 0 then
        redis.call('PUBLISH', P .. 'to:pool', 'none ' .. kind)
      end
      return { 1, reply(job, old), missed }
    end
  end
  local next
  for _, queue in ipairs(targets) do
    local due = redis.call('ZRANGE', P .. 'due:' .. kind .. ':' .. queue, 0, 0, 'WITHSCORES')[2]
    if due then next = math.min(next or math.huge, tonumber(due)) end
    -- More than this step could look at: come again at once.
    if redis.call('EXISTS', P .. 'ready:' .. kind .. ':' .. queue) == 1 then next = NOW end
  end
  return { 0, next and int(math.max(next - NOW, 0)) or '', missed }
end

-- id token state progress lease -> held, cancel; or the word that says why not
function verbs.renew(id, token, state, progress, lease)
  local old = load(id)
  if not old then return 'GONE' end
  if old.token ~= token or not RUNNING[old.state] then return 'LOST' end
  local job = draft(old)
  if RUNNING[state] then job.state = state end
  job.progress = progress
  job.lease_until = int(NOW + lease)
  save(old, job)
  return job.cancel and 'CANCEL' or 'HELD'
end

-- id token how reason message pause max_attempts retention progress path payload -> job
function verbs.settle(id, token, how, reason, message, pause, max_attempts, retention, progress, path, payload)
  local old = load(id)
  if not old then return 'GONE' end
  if old.token ~= token or token == '0' then return 'LOST' end
  -- This token has settled before, and the answer got lost.
  if not RUNNING[old.state] then return reply(old) end
  local job = draft(old)
  job.lease_until = false
  job.nonce = false
  if how == 'done' then
    job.progress, job.path, job.reason, job.message = progress, given(path), false, false
    finish(job, job.kind == 'download' and 'ready' or 'done', retention)
  elseif how == 'fail' and reason == 'deadline_missed' then
    miss_deadline(job, retention)
  elseif how == 'fail' then
    job.job = given(payload) or job.job
    fail(job, reason, message, retention)
  elseif how == 'cancelled' or job.cancel then
    call_off(job, retention)
  elseif how == 'retry' and number(job, 'attempts') >= tonumber(max_attempts) then
    fail(job, reason, message .. ' (given up after ' .. job.attempts .. ' attempts)', retention)
  elseif how == 'retry' then
    snooze(job, reason, message, NOW + pause, retention)
  elseif how == 'wait' and reason == 'outside_window' and not window_of(job) then
    give_attempt_back(job)
    requeue(job)
  elseif how == 'wait' then
    give_attempt_back(job)
    snooze(job, reason, message, NOW + pause, retention)
  else
    give_attempt_back(job)
    requeue(job)
  end
  save(old, job)
  return reply(job, old)
end

-- id token kind reason message payload retention -> nothing; of a claimed job that its worker cannot read
function verbs.bury(id, token, kind, reason, message, payload, retention)
  local old = load(id)
  if old and old.token == token then
    bury(id, old, kind, old.target or 'pool', retention, reason, message, payload)
  end
end

-- id requester retention -> outcome, job
function verbs.cancel(id, requester, retention)
  local old = load(id)
  if not old then return 'GONE' end
  if ENDED[old.state] then return { 'over', reply(old) } end
  local job = draft(old)
  if requester ~= '' then
    local left = {}
    for _, name in ipairs(names(job.requesters)) do
      if name ~= requester then left[#left + 1] = name end
    end
    job.requesters = written(left)
    if job.anonymous or #left > 0 then
      save(old, job)
      return { 'wanted', reply(job, old) }
    end
  end
  if RUNNING[job.state] then
    job.cancel = '1'
    save(old, job)
    if job.owner then redis.call('PUBLISH', P .. 'to:host:' .. job.owner, 'cancel ' .. id) end
    return { 'stopping', reply(job, old) }
  end
  call_off(job, retention)
  save(old, job)
  return { 'ended', reply(job, old) }
end

-- id -> job, or the state that forbids it, or the job in flight that does the same
function verbs.retry(id)
  local old = load(id)
  if not old then return 'GONE' end
  if old.state ~= 'failed' and old.state ~= 'cancelled' then return 'STATE ' .. old.state end
  local other = rival(old)
  if other then return 'TAKEN ' .. other end
  local job = draft(old)
  job.attempts = '0'
  job.cancel, job.message, job.started_at, job.finished_at = false, false, false, false
  local deadline = tonumber(job.deadline)
  if deadline and deadline <= NOW then job.deadline = false end
  if #names(job.requesters) == 0 then job.anonymous = '1' end
  job.ages_from = int(NOW)
  requeue(job)
  save(old, job)
  redis.call('PERSIST', P .. 'job:' .. id)
  for _, key in ipairs(names(job.keys)) do redis.call('SET', P .. 'key:' .. key, id) end
  return reply(job, old)
end

-- Nobody can look at the batch any more.
local function forget_batch(id)
  local key = P .. 'batch:' .. id
  local want, keys = redis.call('HGET', key, 'want'), names(redis.call('HGET', key, 'keys'))
  keys[#keys + 1] = redis.call('HGET', key, 'key') or ''
  if want and redis.call('HGET', P .. 'wants', 'batch ' .. want) == id then
    redis.call('HDEL', P .. 'wants', 'batch ' .. want)
  end
  for _, text in ipairs(keys) do
    if redis.call('GET', P .. 'key:' .. text) == id then redis.call('DEL', P .. 'key:' .. text) end
  end
  redis.call('DEL', key)
  redis.call('ZREM', P .. 'batches', id)
end

-- Jobs whose worker vanished go back or end, and those that are late end: both, changed.
local function take_back(limit, max_attempts, retention)
  local reaped = {}
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', int(NOW), 'LIMIT', 0, limit)) do
    local old = load(id)
    if not old or not is_whole(old) or not RUNNING[old.state] then
      redis.call('ZREM', P .. 'leases', id)
      if old and not is_whole(old) then bury(id, old, old.kind or 'download', old.target or 'pool', retention) end
    else
      local job = draft(old)
      job.lease_until = false
      job.nonce = false
      job.token = next_token(job)
      if job.cancel then
        call_off(job, retention)
      elseif number(job, 'attempts') >= tonumber(max_attempts) then
        fail(job, 'lease_lost', 'the worker vanished in attempt ' .. job.attempts .. ' of ' .. job.attempts
          .. '; hint: look for a crash in the log of the host, then retry the job', retention)
      else
        requeue(job)
      end
      save(old, job)
      reaped[#reaped + 1] = reply(job, old)
    end
  end
  -- Whoever should have found them too late may not be there.
  local late = {}
  for _, kind in ipairs(KINDS) do
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'deadlines:' .. kind, '-inf', int(NOW), 'LIMIT', 0, limit)) do
      local old = load(id)
      if old and is_whole(old) and (old.state == 'queued' or old.state == 'waiting') then
        local job = draft(old)
        miss_deadline(job, retention)
        save(old, job)
        late[#late + 1] = reply(job, old)
      end
    end
  end
  return reaped, late
end

-- limit max_attempts retention max_finished -> returned and ended jobs, number of forgotten ones
function verbs.reap(limit, max_attempts, retention, max_finished)
  local keys, reaped, late = { P .. 'leases', P .. 'notices' }, {}, {}
  for n, kind in ipairs(KINDS) do keys[n + 2] = P .. 'deadlines:' .. kind end
  local is_at_rest = redis.call('EXISTS', unpack(keys)) == 0
  if not is_at_rest then reaped, late = take_back(limit, max_attempts, retention) end
  local surplus = redis.call('ZCARD', P .. 'ended') - max_finished
  local old = redis.call('ZRANGEBYSCORE', P .. 'ended', '-inf', int(NOW - retention), 'LIMIT', 0, limit)
  if surplus > #old then old = redis.call('ZRANGE', P .. 'ended', 0, math.min(surplus, limit) - 1) end
  for _, member in ipairs(old) do
    local id, kind, state = string.match(member, '^(.-):(.-):(.*)$')
    local job = load(id)
    for _, key in ipairs(names(job and job.keys)) do
      if redis.call('GET', P .. 'key:' .. key) == id then redis.call('DEL', P .. 'key:' .. key) end
    end
    redis.call('ZREM', P .. 'jobs:' .. kind .. ':' .. state, id)
    redis.call('ZREM', P .. 'ended', member)
    redis.call('DEL', P .. 'job:' .. id)
    -- Without one that was not done the batch would look like a success.
    if job and job.parent and (state == 'failed' or state == 'cancelled') then forget_batch(job.parent) end
  end
  if is_at_rest then return { reaped, #old, late, 0 } end
  -- Those that no larder can tell, and would stay for ever.
  redis.call('ZREMRANGEBYSCORE', P .. 'notices', '-inf', int(NOW - retention))
  return { reaped, #old, late, #redis.call('ZRANGEBYSCORE', P .. 'notices', '-inf', int(NOW), 'LIMIT', 0, 1) }
end

-- Whether a job of a batch has not ended.
local function is_open(batch)
  for _, id in ipairs(names(redis.call('HGET', P .. 'batch:' .. batch, 'jobs'))) do
    local state = redis.call('HGET', P .. 'job:' .. id, 'state')
    if state and not ENDED[state] then return true end
  end
  return false
end

-- limit lease -> ended jobs and batches of which somebody wants to be told, for this larder alone for so many
-- microseconds; and how many until the next look, or ''
function verbs.notices(limit, lease)
  local key, jobs, batches = P .. 'notices', {}, {}
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', int(NOW), 'LIMIT', 0, limit)) do
    local id, later = string.match(member, '^batch:(.*)$'), lease
    local job = not id and load(member)
    if job and ENDED[job.state] then
      jobs[#jobs + 1] = reply(job)
    elseif id and redis.call('EXISTS', P .. member) == 1 then
      if is_open(id) then later = LATER else batches[#batches + 1] = verbs.batch(id) end
    else
      later = nil
    end
    if later then redis.call('ZADD', key, int(NOW + later), member) else redis.call('ZREM', key, member) end
  end
  local next = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]
  return { jobs, batches, next and int(math.max(tonumber(next) - NOW, 0)) or '' }
end

-- id ended -> nothing; a notice of this end was written down. A job that has ended once more since is told of again
function verbs.noticed(id, ended)
  local now = redis.call('HGET', P .. 'job:' .. id, 'finished_at')
  if not now or now == ended then redis.call('ZREM', P .. 'notices', id) end
end

-- The ids of one state, among which are the newest behind a place, or the newest of all.
local function behind(key, word, limit, seq, created)
  if word ~= 'queued' then
    return redis.call('ZRANGE', key, seq and '(' .. seq or '+inf', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, limit)
  end
  -- These lie by when they were queued, and one that was put back lies above its place.
  local ids = redis.call('ZREVRANGE', key, 0, math.max(PAGED, limit) - 1)
  if seq and #ids >= PAGED then
    for _, id in ipairs(redis.call('ZRANGE', key, created, '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, limit)) do
      ids[#ids + 1] = id
    end
  end
  return ids
end

-- Whether a job waits for the host, or was taken by it last.
local function is_of(id, host)
  local key = P .. 'job:' .. id
  return redis.call('HGET', key, 'target') == 'host:' .. host or redis.call('HGET', key, 'owner') == host
end

-- Jobs of each state that are looked at for those of one host.
local SEARCHED = 10000

-- limit state seq created host kind... ; an empty state is every one, seq and created are the place of a job -> jobs behind
-- it, or all, the newest first; of a host those that wait for it or that it took last
function verbs.list(limit, state, seq, created, host, ...)
  local most = host ~= '' and SEARCHED or limit
  seq = tonumber(seq)
  local states = state ~= '' and { state }
    or { 'queued', 'waiting', 'planning', 'fetching', 'verifying', 'running', 'ready', 'done', 'failed',
      'cancelled' }
  local found, known = {}, {}
  for _, kind in ipairs({ ... }) do
    for _, word in ipairs(states) do
      for _, id in ipairs(behind(P .. 'jobs:' .. kind .. ':' .. word, word, most, seq and int(seq), created)) do
        local place = not known[id] and (host == '' or is_of(id, host)) and redis.call('HGET', P .. 'job:' .. id, 'seq')
        known[id] = true
        local n = place and (tonumber(place) or 0)
        if n and (not seq or n < seq) then found[#found + 1] = { n, id } end
      end
    end
  end
  table.sort(found, function(a, b) if a[1] ~= b[1] then return a[1] > b[1] end return a[2] > b[2] end)
  local jobs = {}
  for n = 1, math.min(#found, tonumber(limit)) do jobs[n] = redis.call('HGETALL', P .. 'job:' .. found[n][2]) end
  return jobs
end

-- What the missing bytes of a job take at the speed of now, in microseconds.
local function left(id)
  local fine, progress = pcall(cjson.decode, redis.call('HGET', P .. 'job:' .. id, 'progress') or '')
  if not fine or type(progress) ~= 'table' then return 0 end
  local total, done, speed = progress.bytes_total, progress.bytes_done, progress.bytes_per_second
  if type(total) ~= 'number' or type(done) ~= 'number' or type(speed) ~= 'number' or speed == 0 then return 0 end
  return math.floor(math.max(total - done, 0) / speed) * 1000000
end

-- Whether a job of the kind is in one of these states; a fleet at rest has none in most.
local function are_some(kind, states)
  local keys = {}
  for n, state in ipairs(states) do keys[n] = P .. 'jobs:' .. kind .. ':' .. state end
  return redis.call('EXISTS', unpack(keys)) > 0
end

-- kinds many state... -> for each of the kinds, with commas between them, for each state how many jobs, then the age of
-- the oldest queued one and the least time that one of the `many` first deadlines ahead has to spare, or ''; microseconds
function verbs.stats(kinds, many, ...)
  local all, states = {}, { ... }
  for kind in string.gmatch(kinds, '[^,]+') do
    local counts, least, oldest = {}, nil, nil
    local any = are_some(kind, states)
    local open = any and are_some(kind, UNENDED)
    for n, state in ipairs(states) do
      local may_be = any and (open or ENDED[state])
      counts[n] = may_be and redis.call('ZCARD', P .. 'jobs:' .. kind .. ':' .. state) or 0
    end
    if open then
      oldest = redis.call('ZRANGE', P .. 'jobs:' .. kind .. ':queued', 0, 0, 'WITHSCORES')[2]
      local ahead = redis.call('ZRANGEBYSCORE', P .. 'deadlines:' .. kind, int(NOW), '+inf', 'WITHSCORES', 'LIMIT', 0, many)
      for n = 1, #ahead, 2 do
        local slack = tonumber(ahead[n + 1]) - NOW - left(ahead[n])
        if not least or slack < least then least = slack end
      end
    end
    counts[#counts + 1] = oldest and int(math.max(NOW - tonumber(oldest), 0)) or ''
    counts[#counts + 1] = least and int(least) or ''
    all[#all + 1] = counts
  end
  return all
end

-- lease field value ... -> whether it was put: a job that this server has forgotten, unless another one does the
-- same. A running one is its worker's for a lease from now on, as the worker's own clock may be wrong; '' leaves it
function verbs.restore(lease, ...)
  local job, list = draft({}), { ... }
  for i = 1, #list, 2 do job[list[i]] = list[i + 1] end
  if lease ~= '' and RUNNING[job.state] then job.lease_until = int(NOW + lease) end
  if redis.call('EXISTS', P .. 'job:' .. job.id) == 1 then return 1 end
  if joinable(job) and rival(job) then return 0 end
  if tonumber(redis.call('GET', P .. 'seq') or 0) <= tonumber(job.seq) then
    redis.call('SET', P .. 'seq', int(tonumber(job.seq) + 1))
  end
  save(nil, job)
  for _, key in ipairs(names(job.keys)) do redis.call('SET', P .. 'key:' .. key, job.id, 'NX') end
  return 1
end

verbs.inbox, verbs.turn_away, verbs.handled = waiting_requests, turn_away, handled
function verbs.deliver(...) return deliver(verbs.enqueue, ...) end
